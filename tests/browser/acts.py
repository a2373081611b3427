"""The acts of the pages: each with its clicks, what the user then reads, and what has changed.

`test_listing.py` finds the buttons of all pages, and fails for one that no act here presses; `test_every_act.py`
performs the acts. A button is named by the URL to which its form leads: "djjp_job_retry"; a form of GET has "get"
before that, and the actions of lists, the verbs of confirmations and Django's own buttons have a word behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from django.urls import resolve

from djjp import queues
from djjp.models import Job, Operation, Progression, Schedule, State
from djjp.outbox.models import OutboxJob
from tests.browser.pages import at, quoted
from tests.browser.seed import SLASHED, Seeded
from tests.project.shop.jobs import add

if TYPE_CHECKING:
    from playwright.sync_api import Page

#: Django's buttons below the form of a row.
_SUBMITS = ("_save", "_addanother", "_continue")


def name_of(method: str, path: str, given: Mapping[str, Any]) -> str:
    """Return the name of a button by what its form sends."""
    match = resolve(path)
    if method.upper() == "GET":
        return f"get {match.url_name}"
    words = [match.url_name or path, match.kwargs.get("verb"), given.get("action")]
    return " ".join(filter(None, [*words, *(each for each in _SUBMITS if each in given)]))


class Act(NamedTuple):
    """An act of a user.

    Attributes:
        start: the page on which it begins.
        do: presses the buttons, up to the last page.
        read: what that page shows.
        buttons: the names of the pressed buttons that send a form.
        has_done: returns whether the act has had its effect; None for one that only shows something.
    """

    start: Callable[[Any], str]
    do: Callable[[Page], None]
    read: str
    buttons: set[str]
    has_done: Callable[[Seeded], bool] | None = None


# Steps


def press(page: Page, name: str, role: str = "button") -> None:
    """Press a button, or follow a link, that leads to another page."""
    with page.expect_navigation():
        page.get_by_role(role, name=re.compile(name)).first.click()  # type: ignore[arg-type]  # "link"


def pressing(*names: str) -> Callable[[Page], None]:
    """Press a button on each page in turn; of a link its text follows "link "."""

    def do(page: Page) -> None:
        for name in names:
            is_link = name.startswith("link ")
            press(page, f"^{name.removeprefix('link ')}", "link" if is_link else "button")

    return do


def filling(label: str, text: str, *buttons: str) -> Callable[[Page], None]:
    """Fill a field, and press the buttons."""

    def do(page: Page) -> None:
        page.get_by_label(label, exact=True).first.fill(text)
        pressing(*buttons)(page)

    return do


def choose(page: Page, action: str, *, across: bool) -> None:
    """Choose an action of the list of jobs."""
    page.get_by_label("Action").select_option(f"{action}_selected")
    page.locator("#djjp-across").select_option("1" if across else "0")
    press(page, "^Go$")


def all_that_match(verb: str, last: str, argument: str = "") -> Callable[[Page], None]:
    """Do a verb to all jobs of a list, through its preview."""

    def do(page: Page) -> None:
        choose(page, verb, across=True)
        if argument:
            page.locator("#djjp-argument").fill(argument)
            press(page, "^Go on")
        page.locator("[data-djjp=preview]").wait_for()
        press(page, last)

    return do


def ticked_schedule(action: str, *more: str) -> Callable[[Page], None]:
    """Do an action of the list of schedules to one of them."""

    def do(page: Page) -> None:
        page.get_by_role("row", name="every five").get_by_role("checkbox").check()
        page.locator("select[name=action]").select_option(action)
        press(page, "^Go$")
        pressing(*more)(page)

    return do


def delete_after_its_warning(page: Page) -> None:
    press(page, "^Delete", "link")
    page.get_by_text("the fence drops its outcome").wait_for()
    press(page, "^Delete the job")


def copy_and_enqueue(page: Page) -> None:
    press(page, "^Copy and enqueue again", "link")
    page.get_by_label("Positional arguments").fill("[not json")
    press(page, "^Enqueue the new job")
    page.locator("#id_args_error").wait_for()
    page.get_by_label("Positional arguments").fill("[41]")
    press(page, "^Enqueue the new job")


def write_schedule(page: Page) -> None:
    page.locator("#id_name").fill("hourly")
    page.locator("#id_job").select_option(add.name)
    page.locator("#id_positional").fill("[1]")
    page.locator("#id_cron").fill("61 * * * *")
    press(page, "^Save$")
    page.locator(".field-cron .errorlist").wait_for()
    page.locator("#id_cron").fill("0 * * * *")
    press(page, "^Save and add another")
    page.locator("#id_name").fill("daily")
    page.locator("#id_job").select_option(add.name)
    page.locator("#id_positional").fill("[2]")
    page.locator("#id_every").fill("1 00:00:00")
    press(page, "^Save and continue")
    press(page, "^Save and continue")
    press(page, "^Save and add another")


def filter_by_queue(page: Page) -> None:
    page.get_by_text("Filter by fields").click()
    filling("Queue", SLASHED, "Filter$")(page)


def show_waits(page: Page) -> None:
    page.get_by_label("Kind").select_option("wait")
    press(page, "^Show$")


def search_in_djangos_list(page: Page) -> None:
    page.locator("#searchbar").fill("five")
    press(page, "^Search$")


def searching(label: str, text: str) -> Callable[[Page], None]:
    return filling(label, text, "Search")


def pause_for(time: str) -> Callable[[Page], None]:
    """Pause the queue of a page for a time, after a time that it refuses."""

    def do(page: Page) -> None:
        page.get_by_label("or another time").fill("tomorrow")
        press(page, "^Pause$")
        page.locator("#djjp-own-error").wait_for()
        page.get_by_label("or another time").fill(time)
        press(page, "^Pause$")

    return do


# What has changed


def is_in(state: State, key: str = "jobs", of: State | None = None) -> Callable[[Seeded], bool]:
    """Return a function that returns whether a seeded job is in a state."""

    def check(seeded: Seeded) -> bool:
        found = getattr(seeded, key)
        return Job.objects.get(pk=found if of is None else found[of]).state == state

    return check


def job(state: State) -> Callable[[Seeded], str]:
    return lambda seeded: f"job/{seeded.jobs[state]}/change/"


def jobs(**filter: Any) -> bool:
    return Job.objects.filter(**filter).exists()


def is_paused(queue: str) -> bool:
    return queue in queues.paused()


OF_JOBS: dict[str, Act] = {
    "cancel a running job": Act(
        job(State.RUNNING),
        pressing("link Cancel", "Cancel the job"),
        "The cancellation was requested",
        {"djjp_job_cancel"},
        lambda seeded: Job.objects.get(pk=seeded.jobs[State.RUNNING]).cancel_requested,
    ),
    "delete a running job after its warning": Act(
        job(State.RUNNING),
        delete_after_its_warning,
        "was deleted successfully",
        {"djjp_job_delete"},
        lambda seeded: not jobs(pk=seeded.jobs[State.RUNNING]),
    ),
    "retry a failed job": Act(
        job(State.FAILED),
        pressing("Retry"),
        "Retried.",
        {"djjp_job_retry"},
        is_in(State.READY, of=State.FAILED),
    ),
    "run a job again": Act(
        job(State.SUCCEEDED),
        pressing("Run again"),
        "Retried.",
        {"djjp_job_retry"},
        is_in(State.READY, of=State.SUCCEEDED),
    ),
    "run a scheduled job now": Act(
        job(State.SCHEDULED),
        pressing("Run now"),
        "Made ready to run now.",
        {"djjp_job_run"},
        is_in(State.READY, of=State.SCHEDULED),
    ),
    "move a job": Act(
        job(State.BLOCKED),
        filling("Queue", "reports", "Move$"),
        "Moved to queue reports.",
        {"djjp_job_move"},
        lambda seeded: jobs(pk=seeded.jobs[State.BLOCKED], queue="reports"),
    ),
    "change the priority of a job": Act(
        job(State.READY),
        filling("Priority", "7", "Set$"),
        "Changed the priority to 7.",
        {"djjp_job_priority"},
        lambda seeded: jobs(pk=seeded.jobs[State.READY], priority=7),
    ),
    "cancel a job that waits": Act(
        job(State.READY),
        pressing("Cancel$"),
        "Cancelled.",
        {"djjp_job_cancel"},
        is_in(State.CANCELLED, of=State.READY),
    ),
    "resume the queue of a job": Act(
        lambda seeded: f"job/{seeded.paused}/change/",
        pressing("Resume the queue"),
        "Queue bulk is resumed.",
        {"djjp_job_resume"},
        lambda seeded: not is_paused("bulk"),
    ),
    "delete a refused job": Act(
        at("job/outbox/default/"),
        pressing("link Delete…", "Delete it"),
        "Deleted from the outbox.",
        {"djjp_job_outbox_delete"},
        lambda seeded: not OutboxJob.objects.filter(pk=seeded.aside).exists(),
    ),
    "copy a job after a mistake": Act(
        lambda seeded: f"job/{seeded.copied}/change/",
        copy_and_enqueue,
        "a copy of job",
        {"djjp_job_copy"},
        lambda seeded: jobs(name=add.name, state=State.READY, arguments__contains="41"),
    ),
}

OF_MANY_JOBS: dict[str, Act] = {
    "change the priority of all that match": Act(
        at("job/?state=ready"),
        all_that_match("priority", "^Set the priority", "7"),
        "Changed the priority of",
        {"djjp_job_changelist priority_selected", "djjp_job_bulk priority"},
        lambda seeded: jobs(priority=7) and not jobs(state=State.READY, priority=0),
    ),
    "move all that match": Act(
        at("job/?state=ready"),
        all_that_match("move", "^Move", "reports"),
        "to queue reports.",
        {"djjp_job_changelist move_selected", "djjp_job_bulk move"},
        lambda seeded: not Job.objects.filter(state=State.READY).exclude(queue="reports").exists(),
    ),
    "run all that match now": Act(
        at("job/?state=scheduled"),
        all_that_match("run", "^Run now"),
        "Made ready",
        {"djjp_job_changelist run_selected", "djjp_job_bulk run"},
        is_in(State.READY, of=State.SCHEDULED),
    ),
    "retry all that match": Act(
        at("job/?state=failed"),
        all_that_match("retry", "^Retry"),
        "Retried",
        {"djjp_job_changelist retry_selected", "djjp_job_bulk retry"},
        lambda seeded: not jobs(state=State.FAILED),
    ),
    "cancel all that match": Act(
        at("job/?state=ready"),
        all_that_match("cancel", "^Cancel"),
        "Cancelled",
        {"djjp_job_changelist cancel_selected", "djjp_job_bulk cancel"},
        lambda seeded: not jobs(state=State.READY),
    ),
    "delete all that match": Act(
        at("job/?state=succeeded"),
        all_that_match("delete", "^Delete"),
        "Deleted",
        {"djjp_job_changelist delete_selected", "djjp_job_bulk delete"},
        lambda seeded: not jobs(state=State.SUCCEEDED) and jobs(state=State.CANCELLED),
    ),
    "stop an operation": Act(
        lambda seeded: f"operation/{seeded.waiting}/change/",
        pressing("Stop"),
        "Stopped.",
        {"djjp_operation_stop"},
        lambda seeded: Operation.objects.get(pk=seeded.waiting).state == Progression.STOPPED,
    ),
}

OF_THE_REST: dict[str, Act] = {
    "retry one step of a pipeline": Act(
        lambda seeded: f"job/{seeded.step}/change/",
        pressing("link Retry", "Run 2 steps again"),
        "Retried 2 jobs.",
        {"djjp_job_pipeline_retry_step"},
        is_in(State.READY, "step"),
    ),
    "cancel a pipeline": Act(
        lambda seeded: f"job/pipelines/{seeded.underway}/",
        pressing("link Cancel…", "Cancel the pipeline"),
        "Running jobs receive the request",
        {"djjp_job_pipeline_cancel"},
        lambda seeded: (
            not Job.objects.filter(pipeline=seeded.underway).exclude(state=State.CANCELLED)
        ),
    ),
    "retry a pipeline": Act(
        lambda seeded: f"job/pipelines/{seeded.underway}/",
        pressing("link Retry…", "Run 2 steps again"),
        "Retried 2 jobs.",
        {"djjp_job_pipeline_retry"},
        lambda seeded: jobs(pipeline=seeded.underway, state=State.READY),
    ),
    "work on an operation": Act(
        lambda seeded: f"operation/{seeded.waiting}/change/",
        pressing("Go on"),
        "queue:bulk",
        {"djjp_operation_go_on"},
    ),
    "pause a queue until a time": Act(
        at("queue/default/change/"),
        pause_for("45m"),
        "default: Paused until",
        {"djjp_queue_pause"},
        lambda seeded: is_paused("default"),
    ),
    "resume a queue": Act(
        at("queue/default/change/"),
        pressing("Resume"),
        "default: Resumed.",
        {"djjp_queue_resume"},
        lambda seeded: not is_paused("default"),
    ),
    "relay a refused job again": Act(
        at("job/outbox/default/"),
        pressing("Relay again"),
        "Relayed again.",
        {"djjp_job_outbox_relay"},
        lambda seeded: not OutboxJob.objects.filter(problem__isnull=False).exists(),
    ),
}

OF_SCHEDULES: dict[str, Act] = {
    "run a schedule now": Act(
        lambda seeded: f"schedule/{seeded.schedule}/change/",
        pressing("Run now"),
        "nightly report is enqueued as job",
        {"djjp_schedule_run"},
        lambda seeded: jobs(name=add.name, state=State.READY),
    ),
    "disable a schedule": Act(
        lambda seeded: f"schedule/{seeded.schedule}/change/",
        pressing("Disable"),
        "Disabled 1 schedule.",
        {"djjp_schedule_disable"},
        lambda seeded: not Schedule.objects.get(pk=seeded.schedule).enabled,
    ),
    "enable a schedule": Act(
        lambda seeded: f"schedule/{seeded.schedule}/change/",
        pressing("Enable"),
        "Enabled 1 schedule.",
        {"djjp_schedule_enable"},
        lambda seeded: Schedule.objects.get(pk=seeded.schedule).enabled,
    ),
    "write schedules after a mistake": Act(
        at("schedule/add/"),
        write_schedule,
        "Add schedule",
        {
            *("djjp_schedule_add _save", "djjp_schedule_add _addanother"),
            *("djjp_schedule_add _continue", "djjp_schedule_change _continue"),
            "djjp_schedule_change _addanother",
        },
        lambda seeded: Schedule.objects.filter(name__in=("hourly", "daily")).count() == 2,
    ),
    "change a schedule": Act(
        lambda seeded: f"schedule/{seeded.schedule}/change/",
        filling("Cron:", "30 2 * * *", "Save$"),
        "was changed successfully",
        {"djjp_schedule_change _save"},
        lambda seeded: Schedule.objects.get(pk=seeded.schedule).cron == "30 2 * * *",
    ),
    "delete a schedule": Act(
        lambda seeded: f"schedule/{seeded.schedule}/change/",
        pressing("link Delete", "Yes, I’m sure"),
        "was deleted successfully",
        {"djjp_schedule_delete"},
        lambda seeded: not Schedule.objects.filter(pk=seeded.schedule).exists(),
    ),
    "enable ticked schedules": Act(
        at("schedule/"),
        ticked_schedule("enable_selected"),
        "Enabled 1 schedule.",
        {"djjp_schedule_changelist enable_selected"},
        lambda seeded: Schedule.objects.get(pk=seeded.disabled).enabled,
    ),
    "run ticked schedules now": Act(
        at("schedule/"),
        ticked_schedule("run_selected"),
        "every five minutes is enqueued as job",
        {"djjp_schedule_changelist run_selected"},
        lambda seeded: jobs(name="shop.echo", state=State.READY),
    ),
    "disable ticked schedules": Act(
        at("schedule/"),
        ticked_schedule("disable_selected"),
        "Disabled 1 schedule.",
        {"djjp_schedule_changelist disable_selected"},
        lambda seeded: not Schedule.objects.get(pk=seeded.disabled).enabled,
    ),
    "delete ticked schedules": Act(
        at("schedule/"),
        ticked_schedule("delete_selected", "Yes, I’m sure"),
        "Successfully deleted 1 schedule.",
        {"djjp_schedule_changelist delete_selected"},
        lambda seeded: not Schedule.objects.filter(pk=seeded.disabled).exists(),
    ),
}


#: Acts that change nothing: what they show is in the text of the page.
OF_SEARCH: dict[str, Act] = {
    "search jobs": Act(
        at("job/"), searching("Search jobs", "report1"), "3 jobs", {"get djjp_job_changelist"}
    ),
    "filter jobs by fields": Act(
        at("job/"),
        filter_by_queue,
        "3 jobs",
        {"get djjp_job_changelist"},
    ),
    "search failures": Act(
        at("job/failures/"),
        searching("Search jobs", "name:shop.billing.charge"),
        "PaymentRefused",
        {"get djjp_job_failures"},
    ),
    "search names": Act(
        at("job/names/"),
        searching("Names that contain or match", "shop.m*"),
        "shop.mail",
        {"get djjp_job_names"},
    ),
    "search queues": Act(
        at("queue/?q=mail"),
        searching("Queues whose name contains", "bul"),
        "bulk",
        {"get djjp_queue_changelist"},
    ),
    "search consumers": Act(
        at("consumer/?q=web"),
        searching("Consumers whose name contains", "web-2"),
        "web-2:4711",
        {"get djjp_consumer_changelist"},
    ),
    "show one kind of incidents": Act(
        at("incident/"),
        show_waits,
        "No incident of this kind is open.",
        {"get djjp_incident_changelist"},
    ),
    "search schedules": Act(
        at("schedule/"),
        search_in_djangos_list,
        "every five minutes",
        {"get djjp_schedule_changelist"},
    ),
}

#: Acts on a consumer that is alive, which take its name.
OF_A_CONSUMER: dict[str, Act] = {
    "have it claim no further jobs": Act(
        lambda name: f"consumer/{quoted(name)}/change/",
        pressing("Have it claim no further jobs"),
        "it claims no further jobs",
        {"djjp_consumer_quiet"},
    ),
    "have it claim jobs again": Act(
        lambda name: f"consumer/{quoted(name)}/change/",
        pressing("Have it claim jobs again"),
        "It claims jobs again.",
        {"djjp_consumer_unquiet"},
    ),
    "show the stacks of its jobs": Act(
        lambda name: f"consumer/{quoted(name)}/change/",
        pressing("Show the stacks of its jobs", "Show them again"),
        "GATE.wait",
        {"djjp_consumer_stack"},
    ),
    "stop it": Act(
        lambda name: f"consumer/{quoted(name)}/change/",
        pressing("link Stop…", "Stop it"),
        "it ends once its running jobs have ended",
        {"djjp_consumer_stop"},
    ),
}

#: The groups whose acts share what is seeded.
GROUPS: dict[str, dict[str, Act]] = {
    "a job": OF_JOBS,
    "many jobs": OF_MANY_JOBS,
    "the rest": OF_THE_REST,
    "schedules": OF_SCHEDULES,
}


def pressed() -> Iterator[str]:
    """Yield the names of the buttons that some act presses."""
    for group in (*GROUPS.values(), OF_SEARCH, OF_A_CONSUMER):
        for act in group.values():
            yield from act.buttons
