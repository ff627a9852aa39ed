complete -o default -W "run --help --version" gunicorn-prom
