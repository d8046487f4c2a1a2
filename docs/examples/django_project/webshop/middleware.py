"""One answer of the switch for all of a request."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from zdmigrate.app import pinned


def pin(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        with pinned():
            return get_response(request)

    return middleware
