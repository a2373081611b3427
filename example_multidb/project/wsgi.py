"""The project as an application for a WSGI server.

It serves the admin's styles too, which a deployment leaves to its web server.
"""

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

application = StaticFilesHandler(get_wsgi_application())
