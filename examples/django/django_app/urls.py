"""The routes of the example."""

from django.urls import path

from django_app import views

urlpatterns = [
    path("", views.index),
    path("hello/<str:name>", views.hello),
    path("echo", views.echo),
    path("stream", views.stream),
    path("download", views.download),
    path("error", views.error),
]
