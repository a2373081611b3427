"""Bridges to other libraries; each module needs the extra of djjp that installs its library."""
