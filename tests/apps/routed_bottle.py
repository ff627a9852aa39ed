"""A Bottle application with all kinds of routes and mounts."""

import bottle

app = bottle.Bottle()
app.catchall = False
merged = bottle.Bottle()
mounted = bottle.Bottle()
mounted.catchall = False


@app.get("/")
def index():
    return "index"


@app.get("/items/<number:int>")
def item(number):
    return str(number)


@app.get("/items/<number:int>/broken")
def broken(number):
    raise LookupError(number)


@merged.get("/items/<number:int>")
def merged_item(number):
    return str(number)


@mounted.get("/things/<name>")
def thing(name):
    return name


def plain(environ, start_response):
    start_response("200 OK", [])
    return [b"plain"]


def wrapped(environ, start_response):
    return mounted(environ, start_response)


app.mount("/merged/", merged)
app.mount("/wrapped/", wrapped)
app.mount("/plain/", plain)
