"""Two views: a user, and whether the database is as this version needs it."""

import os

from django.apps import apps
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from webshop.apps import emails


def user(_request: HttpRequest, user_id: int) -> HttpResponse:
    column = emails.pick(user_id, old="user_email", new="email_address")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {column} FROM users WHERE id = %s", [user_id])
        row = cursor.fetchone()
    if row is None:
        raise Http404
    return JsonResponse({"email": row[0], "column": column, "process": os.getpid()})


def ready(_request: HttpRequest) -> HttpResponse:
    readiness = apps.get_app_config("webshop").fleet.ready()
    document = {"ready": readiness.ready, "missing": readiness.missing}
    return JsonResponse(document, status=200 if readiness else 503)


urlpatterns = [path("users/<int:user_id>", user), path("ready", ready)]
