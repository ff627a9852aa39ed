"""A Django project without a database, templates or sessions."""
