"""A Flask application with all kinds of routes, and one that mounts it beside others."""

from flask import Blueprint, Flask, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

app = Flask("routed_flask", static_folder=".", static_url_path="/static")
app.config["PROPAGATE_EXCEPTIONS"] = True
app.wsgi_app = ProxyFix(app.wsgi_app, x_prefix=1)

users = Blueprint("users", __name__, url_prefix="/users")
posts = Blueprint("posts", __name__, url_prefix="/<int:user_id>/posts")


@app.get("/")
def index():
    return "index"


@app.get("/folder/")
def folder():
    return "folder"


@app.get("/own/<name>")
def own(name):
    values = {"template": "/own/{name}", "number": 7, "nothing": "", "none": None}
    request.environ["gunicorn_prom.route"] = values.get(name, request.path)
    return name


@users.get("/<int:user_id>")
def user(user_id):
    return str(user_id)


@posts.get("/<slug>")
def post(user_id, slug):
    return slug


@posts.get("/<slug>/broken")
def broken(user_id, slug):
    raise LookupError(slug)


users.register_blueprint(posts)
app.register_blueprint(users)


def plain(environ, start_response):
    start_response("200 OK", [])
    return [b"plain"]


def wrapped(environ, start_response):
    """Stand for any middleware; it answers some requests itself."""
    if environ["PATH_INFO"] == "/early":
        return plain(environ, start_response)
    return app(environ, start_response)


mounted = DispatcherMiddleware(
    wrapped, {"/v1": app, "/metrics": plain, "/deep": DispatcherMiddleware(plain, {"/er": app})}
)
