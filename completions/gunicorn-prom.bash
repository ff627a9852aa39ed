complete -o default -W "run export --help --version" gunicorn-prom
