complete -c gunicorn-prom -n __fish_use_subcommand -f -a run -d "Launch Gunicorn with metrics"
complete -c gunicorn-prom -n __fish_use_subcommand -f -a export -d "Serve the metrics of a running server"
complete -c gunicorn-prom -n __fish_use_subcommand -l help -d "Show help and exit"
complete -c gunicorn-prom -n __fish_use_subcommand -l version -d "Show versions and exit"
