# Completion of gunicorn-prom for bash.
# Made by `python -m scripts.generate` from the declarations of the options.

# Sets what may stand after $option where that is a setting.
_gunicorn_prom_setting() {
    case $option in
        --worker-type)
            kind=words
            proposals="sync gthread gevent eventlet gevent_pywsgi tornado asgi uvicorn"
            ;;
        --metrics-bind | --metrics-path | --metrics-buckets | \
            --max-worker-memory | -b | --bind | --backlog | -w | --workers | \
            --threads | --worker-connections | --max-requests | \
            --max-requests-jitter | -t | --timeout | --graceful-timeout | \
            --keep-alive | --asgi-disconnect-grace-period | \
            --websocket-max-message-size | --limit-request-line | \
            --limit-request-fields | --limit-request-field_size | -e | --env | -m | \
            --umask | --forwarded-allow-ips | --proxy-allow-from | \
            --uwsgi-allow-from | --paste-global | --forwarder-headers | \
            --root-path | --access-logformat | --logger-class | --log-syslog-to | \
            --log-syslog-prefix | --statsd-host | --dogstatsd-tags | \
            --statsd-prefix | -n | --name | --ssl-version | --ciphers | \
            --http2-max-concurrent-streams | --http2-initial-window-size | \
            --http2-max-frame-size | --http2-max-header-list-size | --dirty-app | \
            --dirty-workers | --dirty-timeout | --dirty-threads | \
            --dirty-graceful-timeout | --control-socket-mode)
            kind=free
            ;;
        --metrics-server)
            kind=words
            proposals="auto thread process none"
            ;;
        --metrics-state-dir | --chdir | --worker-tmp-dir | --pythonpath)
            kind=directories
            ;;
        --metrics-web-config | -c | --config | --reload-extra-file | -p | \
            --pid | --paste | --paster | --access-logfile | --error-logfile | \
            --log-file | --log-config | --log-config-json | --keyfile | --certfile | \
            --ca-certs | --control-socket)
            kind=files
            ;;
        -k | --worker-class)
            kind=words
            proposals="sync gevent gevent_wsgi gevent_pywsgi tornado gthread asgi"
            ;;
        --asgi-loop)
            kind=words
            proposals="auto asyncio uvloop"
            ;;
        --asgi-lifespan)
            kind=words
            proposals="auto on off"
            ;;
        --http-parser)
            kind=words
            proposals="auto fast python"
            ;;
        --reload-engine)
            kind=words
            proposals="auto poll inotify"
            ;;
        -u | --user)
            kind=users
            ;;
        -g | --group)
            kind=groups
            ;;
        --proxy-protocol)
            kind=words
            proposals="auto v1 v2 off"
            ;;
        --protocol)
            kind=words
            proposals="http uwsgi"
            ;;
        --header-map)
            kind=words
            proposals="drop refuse dangerous"
            ;;
        --log-level)
            kind=words
            proposals="critical error warning info debug"
            ;;
        --log-syslog-facility)
            kind=words
            proposals="auth authpriv cron daemon ftp kern lpr mail news security syslog user
                uucp local0 local1 local2 local3 local4 local5 local6 local7"
            ;;
        --cert-reqs)
            kind=words
            proposals="0 1 2"
            ;;
        --http-protocols)
            kind=list
            proposals="h1 h2"
            ;;
        --http2-cleartext)
            kind=words
            proposals="off prior-knowledge upgrade both"
            ;;
    esac
}

# Sets what may stand after $option of the command $1, and what without an option.
_gunicorn_prom_command() {
    local settings="--worker-type --metrics-bind --metrics-path --metrics-server
    --metrics-state-dir --metrics-buckets --metrics-web-config --app-metrics
    --no-app-metrics --route-labels --no-route-labels --timeout-autopsy
    --no-timeout-autopsy --max-worker-memory --gc-freeze --no-gc-freeze
    --preflight --no-preflight -c --config -b --bind --backlog -w --workers
    -k --worker-class --threads --worker-connections --max-requests
    --max-requests-jitter -t --timeout --graceful-timeout --keep-alive
    --asgi-loop --asgi-lifespan --asgi-disconnect-grace-period
    --websocket-max-message-size --http-parser --limit-request-line
    --limit-request-fields --limit-request-field_size --reload
    --reload-engine --reload-extra-file --spew --check-config --print-config
    --preload --no-sendfile --reuse-port --chdir -D --daemon -e --env -p
    --pid --worker-tmp-dir -u --user -g --group -m --umask --initgroups
    --forwarded-allow-ips --pythonpath --paste --paster --proxy-protocol
    --proxy-allow-from --protocol --uwsgi-allow-from --paste-global
    --permit-obsolete-folding --strip-header-spaces
    --permit-unconventional-http-method --permit-unconventional-http-version
    --casefold-http-method --forwarder-headers --header-map --root-path
    --access-logfile --disable-redirect-access-to-syslog --access-logformat
    --error-logfile --log-file --log-level --capture-output --logger-class
    --log-config --log-config-json --log-syslog-to --log-syslog
    --log-syslog-prefix --log-syslog-facility -R --enable-stdio-inheritance
    --statsd-host --dogstatsd-tags --statsd-prefix --enable-backlog-metric
    -n --name --keyfile --certfile --ssl-version --cert-reqs --ca-certs
    --suppress-ragged-eofs --do-handshake-on-connect --ciphers
    --http-protocols --http2-cleartext --http2-max-concurrent-streams
    --http2-initial-window-size --http2-max-frame-size
    --http2-max-header-list-size --dirty-app --dirty-workers --dirty-timeout
    --dirty-threads --dirty-graceful-timeout --control-socket
    --control-socket-mode --no-control-socket"
    case $1 in
        '')
            options="--version --install-completion --show-completion -h --help"
            arguments=words
            words_of_arguments="run check settings emit metrics export top"
            ;;
        run)
            options="-h --help $settings"
            arguments=modules
            _gunicorn_prom_setting
            ;;
        check)
            options="--live --format -v --verbose --only --ignore --list --explain
                --fail-level --strict -h --help $settings"
            arguments=modules
            _gunicorn_prom_setting
            case $option in
                --live)
                    kind=free
                    ;;
                --format)
                    kind=words
                    proposals="text json github"
                    ;;
                --only | --ignore)
                    kind=list
                    proposals="GP001 GP002 GP003 GP004 GP005 GP006 GP007 GP008 GP009 GP010 GP011 GP012
                        GP013 GP014 GP015 GP016 GP017 GP018 GP019 GP020 GP021 GP022 GP023 GP024
                        GP025 GP026 GP027 GP028 GP029 GP030 GP031 GP032 GP033 GP034 GP035 GP036
                        GP037 GP038 GP039 app config host metrics security live"
                    ;;
                --explain)
                    kind=words
                    proposals="GP001 GP002 GP003 GP004 GP005 GP006 GP007 GP008 GP009 GP010 GP011 GP012
                        GP013 GP014 GP015 GP016 GP017 GP018 GP019 GP020 GP021 GP022 GP023 GP024
                        GP025 GP026 GP027 GP028 GP029 GP030 GP031 GP032 GP033 GP034 GP035 GP036
                        GP037 GP038 GP039"
                    ;;
                --fail-level)
                    kind=words
                    proposals="error warning none"
                    ;;
            esac
            ;;
        settings)
            options="--changed --format -h --help $settings"
            arguments=words
            words_of_arguments="config wsgi_app bind backlog workers worker_class threads
                worker_connections max_requests max_requests_jitter timeout
                graceful_timeout keepalive limit_request_line limit_request_fields
                limit_request_field_size reload reload_engine reload_extra_files spew
                check_config print_config preload_app sendfile reuse_port chdir daemon
                raw_env pidfile worker_tmp_dir user group umask initgroups
                tmp_upload_dir secure_scheme_headers forwarded_allow_ips accesslog
                disable_redirect_access_to_syslog access_log_format errorlog loglevel
                capture_output logger_class logconfig logconfig_dict logconfig_json
                syslog_addr syslog syslog_prefix syslog_facility
                enable_stdio_inheritance statsd_host dogstatsd_tags statsd_prefix
                enable_backlog_metric proc_name default_proc_name pythonpath paste
                on_starting on_reload when_ready pre_fork post_fork post_worker_init
                worker_int worker_abort pre_exec pre_request post_request child_exit
                worker_exit nworkers_changed on_exit ssl_context proxy_protocol
                proxy_allow_ips protocol uwsgi_allow_ips keyfile certfile ssl_version
                cert_reqs ca_certs suppress_ragged_eofs do_handshake_on_connect ciphers
                http_protocols http2_cleartext http2_max_concurrent_streams
                http2_initial_window_size http2_max_frame_size
                http2_max_header_list_size raw_paste_global_conf permit_obsolete_folding
                strip_header_spaces permit_unconventional_http_method
                permit_unconventional_http_version casefold_http_method
                forwarder_headers header_map asgi_loop asgi_lifespan
                asgi_disconnect_grace_period websocket_max_message_size http_parser
                root_path dirty_apps dirty_workers dirty_timeout dirty_threads
                dirty_graceful_timeout on_dirty_starting dirty_post_fork
                dirty_worker_init dirty_worker_exit control_socket control_socket_mode
                control_socket_disable worker_type metrics_bind metrics_path
                metrics_server metrics_state_dir metrics_buckets metrics_web_config
                app_metrics route_labels timeout_autopsy max_worker_memory gc_freeze
                preflight"
            _gunicorn_prom_setting
            case $option in
                --format)
                    kind=words
                    proposals="text json"
                    ;;
            esac
            ;;
        emit)
            options="-o --output --force --slo -h --help $settings"
            arguments=words
            words_of_arguments="dashboard alerts scrape podmonitor keda compose systemd dockerfile"
            _gunicorn_prom_setting
            case $option in
                -o | --output)
                    kind=directories
                    ;;
                --slo)
                    kind=free
                    ;;
            esac
            ;;
        metrics)
            options="--format -h --help"
            arguments=free
            case $option in
                --format)
                    kind=words
                    proposals="text json markdown"
                    ;;
            esac
            ;;
        export)
            options="--metrics-state-dir --metrics-bind --metrics-path --metrics-web-config
                -h --help"
            arguments=directories
            case $option in
                --metrics-state-dir)
                    kind=directories
                    ;;
                --metrics-bind | --metrics-path)
                    kind=free
                    ;;
                --metrics-web-config)
                    kind=files
                    ;;
            esac
            ;;
        top)
            options="--url --state-dir --server --once --format --interval --sort --filter
                --user --password-file --ca-file --insecure --cert --key -h --help"
            arguments=free
            case $option in
                --url | --server | --interval | --filter | --user)
                    kind=free
                    ;;
                --state-dir)
                    kind=directories
                    ;;
                --format)
                    kind=words
                    proposals="text json"
                    ;;
                --sort)
                    kind=words
                    proposals="id generation pid state active busy rate requests memory rss cpu threads
                        connections waiting uptime heartbeat oldest"
                    ;;
                --password-file | --ca-file | --cert | --key)
                    kind=files
                    ;;
            esac
            ;;
    esac
}

# Proposes the modules of this directory and of those in it, as `package.module:`.
_gunicorn_prom_modules() {
    local path
    local -a found=()
    for path in *.py */*.py; do
        path=${path%.py}
        [[ $path == *__* || $path == *[!A-Za-z0-9_/]* ]] || found+=("${path//\//.}:")
    done
    compopt -o nospace
    mapfile -t COMPREPLY < <(compgen -W "${found[*]}" -- "$value")
}

# Leaves file names to readline, which knows how to quote them, unless they have a prefix that
# readline takes for a part of the name.
_gunicorn_prom_names() {
    if [[ $prefix && $current == "$word" ]]; then
        compopt -o nospace
        mapfile -t COMPREPLY < <(compgen "$2" -P "$prefix" -- "$value")
    else
        compopt -o "$1"
    fi
}

_gunicorn_prom() {
    # Gives the words as they were typed: bash takes them apart at = and : (COMP_WORDBREAKS).
    local line=${COMP_LINE:0:COMP_POINT} part index word=$2
    local -a words=()
    for ((index = 0; index < COMP_CWORD; index++)); do
        part=${COMP_WORDS[index]}
        if [[ $index -eq 0 || $line == [[:space:]]* ]]; then
            words+=("$part")
        else
            words[${#words[@]} - 1]+=$part
        fi
        line=${line#"${line%%[![:space:]]*}"}
        line=${line#"$part"}
    done
    local current=${line#"${line%%[![:space:]]*}"}
    if [[ $line && $line != [[:space:]]* ]]; then
        current=${words[${#words[@]} - 1]}$line
        unset "words[${#words[@]} - 1]"
    fi

    local option=${words[${#words[@]} - 1]} value=$current prefix=""
    if [[ $current == --*=* ]]; then
        option=${current%%=*} value=${current#*=} prefix=${current%%=*}=
    fi

    local IFS=$' \t\n' kind="" proposals="" options="" arguments="" words_of_arguments=""
    _gunicorn_prom_command "${words[1]-}"
    if [[ ! $kind || ( ! $prefix && $current == -* ) ]]; then
        kind=$arguments proposals=$words_of_arguments value=$current prefix=""
        [[ $current != -* ]] || kind=words proposals=$options
    fi
    if [[ $kind == list && $value == *,* ]]; then
        prefix+=${value%,*}, value=${value##*,}
    fi

    COMPREPLY=()
    case $kind in
        words | list) mapfile -t COMPREPLY < <(compgen -W "$proposals" -P "$prefix" -- "$value") ;;
        users) mapfile -t COMPREPLY < <(compgen -u -P "$prefix" -- "$value") ;;
        groups) mapfile -t COMPREPLY < <(compgen -g -P "$prefix" -- "$value") ;;
        files) _gunicorn_prom_names default -f ;;
        directories) _gunicorn_prom_names dirnames -d ;;
        modules) _gunicorn_prom_modules ;;
    esac
    # Bash replaces only what it takes for the word.
    local before=${current%"$word"}
    [[ ${#COMPREPLY[@]} -eq 0 ]] || COMPREPLY=("${COMPREPLY[@]#"$before"}")
}

complete -F _gunicorn_prom gunicorn-prom
