"""A Django project with all kinds of routes, as a WSGI and as an ASGI application."""

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import include, path, re_path

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    DEBUG_PROPAGATE_EXCEPTIONS=True,
    SECRET_KEY="routes",
)


def answer(request, **captured):
    return HttpResponse("yes")


async def answer_async(request, **captured):
    return HttpResponse("yes")


def broken(request, **captured):
    raise LookupError(captured)


articles = [
    path("<int:year>/", answer),
    path("<int:year>/broken/", broken),
    re_path(r"^(?P<slug>[a-z-]+)$", answer_async),
]

urlpatterns = [
    path("", answer),
    path("blog/", include([path("articles/", include(articles))])),
    re_path(r"^archive/(?P<year>[0-9]{4})/$", answer),
]

django.setup()
app = get_wsgi_application()
asgi = get_asgi_application()
