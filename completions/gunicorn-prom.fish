# Completion of gunicorn-prom for fish.
# Made by `python -m scripts.generate` from the declarations of the options.

# Tells whether the command is one of the arguments.
function __gunicorn_prom_command_is
    set -l words (commandline -opc)
    set -q words[2]; and contains -- $words[2] $argv
end

function __gunicorn_prom_has_no_command
    test (count (commandline -opc)) -eq 1
end

# Prints the modules of this directory and of those in it, as `package.module:`.
function __gunicorn_prom_modules
    for path in *.py */*.py
        string match --quiet '*__*' $path; and continue
        string match --quiet --regex '^[A-Za-z0-9_/]+\.py$' $path; or continue
        echo (string replace --all / . (string replace --regex '\.py$' '' $path)):
    end
end

function __gunicorn_prom_GP001_to_live
    printf '%s\t%s\n' \
        'GP001' 'the application imports' \
        'GP002' 'the workers speak what the application speaks' \
        'GP003' 'workers of this type can run here' \
        'GP004' 'Gunicorn has workers of this type' \
        'GP005' 'every name in the configuration file that looks like a setting is one' \
        'GP006' 'the application\'s address can be had' \
        'GP007' 'the metrics server can have its address' \
        'GP008' 'the metrics port is not known as another service\'s' \
        'GP009' 'not everybody may read the metrics' \
        'GP010' 'certificates, keys and password hashes can be used' \
        'GP011' 'the state directory can be written to' \
        'GP012' 'nothing is left of servers that have ended' \
        'GP013' 'PROMETHEUS_MULTIPROC_DIR is not set too late' \
        'GP014' 'the application leaves the metrics to one server' \
        'GP015' 'heartbeats do not wait for a disk' \
        'GP016' 'there is room for the metrics in memory' \
        'GP017' 'the control socket can be made' \
        'GP018' 'workers that hang are restarted' \
        'GP019' 'timeout is not taken for a limit of requests' \
        'GP020' 'workers may finish before the pod is killed' \
        'GP021' 'the workers fit the CPU quota' \
        'GP022' 'the workers fit the memory limit' \
        'GP023' 'the kernel allows the backlog' \
        'GP024' 'a worker may open as many files as it takes connections' \
        'GP025' 'workers are not recycled all at once' \
        'GP026' 'nothing is open when workers are forked' \
        'GP027' 'gevent patches before anything holds on to ssl' \
        'GP028' 'nothing is on that is for development only' \
        'GP029' 'only your proxies are believed' \
        'GP030' 'keepalive outlasts the load balancer\'s idle timeout' \
        'GP031' 'signals reach the server' \
        'GP032' 'statsd can be found' \
        'GP033' 'OpenTelemetry\'s threads are there after the fork' \
        'GP034' 'the proxy says when a request came to it' \
        'GP035' 'every worker was heard of in time' \
        'GP036' 'the metrics come in time' \
        'GP037' 'no family has reached its cap' \
        'GP038' 'as many workers run as are wanted' \
        'GP039' 'the files and directories that the settings name can be had' \
        'app' 'All checks of the group app' \
        'config' 'All checks of the group config' \
        'host' 'All checks of the group host' \
        'metrics' 'All checks of the group metrics' \
        'security' 'All checks of the group security' \
        'live' 'All checks of the group live'
end

function __gunicorn_prom_GP001_to_GP039
    printf '%s\t%s\n' \
        'GP001' 'the application imports' \
        'GP002' 'the workers speak what the application speaks' \
        'GP003' 'workers of this type can run here' \
        'GP004' 'Gunicorn has workers of this type' \
        'GP005' 'every name in the configuration file that looks like a setting is one' \
        'GP006' 'the application\'s address can be had' \
        'GP007' 'the metrics server can have its address' \
        'GP008' 'the metrics port is not known as another service\'s' \
        'GP009' 'not everybody may read the metrics' \
        'GP010' 'certificates, keys and password hashes can be used' \
        'GP011' 'the state directory can be written to' \
        'GP012' 'nothing is left of servers that have ended' \
        'GP013' 'PROMETHEUS_MULTIPROC_DIR is not set too late' \
        'GP014' 'the application leaves the metrics to one server' \
        'GP015' 'heartbeats do not wait for a disk' \
        'GP016' 'there is room for the metrics in memory' \
        'GP017' 'the control socket can be made' \
        'GP018' 'workers that hang are restarted' \
        'GP019' 'timeout is not taken for a limit of requests' \
        'GP020' 'workers may finish before the pod is killed' \
        'GP021' 'the workers fit the CPU quota' \
        'GP022' 'the workers fit the memory limit' \
        'GP023' 'the kernel allows the backlog' \
        'GP024' 'a worker may open as many files as it takes connections' \
        'GP025' 'workers are not recycled all at once' \
        'GP026' 'nothing is open when workers are forked' \
        'GP027' 'gevent patches before anything holds on to ssl' \
        'GP028' 'nothing is on that is for development only' \
        'GP029' 'only your proxies are believed' \
        'GP030' 'keepalive outlasts the load balancer\'s idle timeout' \
        'GP031' 'signals reach the server' \
        'GP032' 'statsd can be found' \
        'GP033' 'OpenTelemetry\'s threads are there after the fork' \
        'GP034' 'the proxy says when a request came to it' \
        'GP035' 'every worker was heard of in time' \
        'GP036' 'the metrics come in time' \
        'GP037' 'no family has reached its cap' \
        'GP038' 'as many workers run as are wanted' \
        'GP039' 'the files and directories that the settings name can be had'
end

function __gunicorn_prom_id_to_oldest
    printf '%s\t%s\n' \
        'id' 'its slot, as in the metrics' \
        'generation' 'the generation of the master that it belongs to' \
        'pid' 'its process' \
        'state' 'booting, idle, busy, stuck, quitting or aborting' \
        'active' 'requests in progress, and how many it can have' \
        'busy' 'share of the time with a request in progress' \
        'rate' 'requests a second' \
        'requests' 'requests since its start' \
        'memory' 'memory: its part of what is shared and all that is not (PSS), else as RSS' \
        'rss' 'resident memory, and the limit of --max-worker-memory' \
        'cpu' 'of one CPU' \
        'threads' 'threads' \
        'connections' 'open connections' \
        'waiting' 'connections that wait for a thread' \
        'uptime' 'since its start' \
        'heartbeat' 'since it last told the master that it lives' \
        'oldest' 'the request that it has had for longest'
end

function __gunicorn_prom_h1_to_h2
    printf '%s\t%s\n' \
        'h1' '' \
        'h2' ''
end

complete -c gunicorn-prom -f

complete -c gunicorn-prom -n '__gunicorn_prom_has_no_command' -l version -d 'Show the versions.'
complete -c gunicorn-prom -n '__gunicorn_prom_has_no_command' -l install-completion -d 'Install completion for the current shell.'
complete -c gunicorn-prom -n '__gunicorn_prom_has_no_command' -l show-completion -d 'Show completion for the current shell, to copy it or customize the installation.'
complete -c gunicorn-prom -n '__gunicorn_prom_has_no_command' -s h -l help -d 'Show the help and exit.'

complete -c gunicorn-prom -n __gunicorn_prom_has_no_command -a run -d 'Start Gunicorn with metrics.'
complete -c gunicorn-prom -n __gunicorn_prom_has_no_command -a check -d 'Find out what is wrong before users do.'
complete -c gunicorn-prom -n __gunicorn_prom_has_no_command -a settings -d 'Show every setting, its value and where it is from.'
complete -c gunicorn-prom -n __gunicorn_prom_has_no_command -a emit -d 'Make files for the fleet: dashboard, alerts, manifests.'
complete -c gunicorn-prom -n __gunicorn_prom_has_no_command -a metrics -d 'List every metric: name, labels, type, unit and meaning.'
complete -c gunicorn-prom -n __gunicorn_prom_has_no_command -a export -d 'Serve the metrics of a running server from beside it.'
complete -c gunicorn-prom -n __gunicorn_prom_has_no_command -a top -d 'Show a running server live: workers, rates, latency, saturation.'

complete -c gunicorn-prom -n '__gunicorn_prom_command_is run' -s h -l help -d 'Show the help and exit.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run' -a '(__gunicorn_prom_modules)'

complete -c gunicorn-prom -n '__gunicorn_prom_command_is check' -l live -x -d 'Examine the running server with this metrics URL too.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is check' -l format -x -a 'text json github' -d 'How to report: text, json or github.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is check' -s v -l verbose -d 'Show what is right, too.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is check' -l only -x -a '(__fish_complete_list , __gunicorn_prom_GP001_to_live)' -d 'Make only these checks: ids or groups, separated by commas.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is check' -l ignore -x -a '(__fish_complete_list , __gunicorn_prom_GP001_to_live)' -d 'Leave these checks out: ids or groups, separated by commas.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is check' -l list -d 'List the checks and exit.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is check' -l explain -x -a '(__gunicorn_prom_GP001_to_GP039)' -d 'Say what a check finds, why, and how to mend it; exit.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is check' -l fail-level -x -a 'error warning none' -d 'From which level on to exit with 1: error, warning or none.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is check' -l strict -d 'Exit with 3 when there are only warnings.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is check' -s h -l help -d 'Show the help and exit.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is check' -a '(__gunicorn_prom_modules)'

complete -c gunicorn-prom -n '__gunicorn_prom_command_is settings' -l changed -d 'Show only what is set, not what is left at its default.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is settings' -l format -x -a 'text json' -d 'How to write it: text or json.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is settings' -s h -l help -d 'Show the help and exit.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is settings' -a 'config wsgi_app bind backlog workers worker_class threads worker_connections max_requests max_requests_jitter timeout graceful_timeout keepalive limit_request_line limit_request_fields limit_request_field_size reload reload_engine reload_extra_files spew check_config print_config preload_app sendfile reuse_port chdir daemon raw_env pidfile worker_tmp_dir user group umask initgroups tmp_upload_dir secure_scheme_headers forwarded_allow_ips accesslog disable_redirect_access_to_syslog access_log_format errorlog loglevel capture_output logger_class logconfig logconfig_dict logconfig_json syslog_addr syslog syslog_prefix syslog_facility enable_stdio_inheritance statsd_host dogstatsd_tags statsd_prefix enable_backlog_metric proc_name default_proc_name pythonpath paste on_starting on_reload when_ready pre_fork post_fork post_worker_init worker_int worker_abort pre_exec pre_request post_request child_exit worker_exit nworkers_changed on_exit ssl_context proxy_protocol proxy_allow_ips protocol uwsgi_allow_ips keyfile certfile ssl_version cert_reqs ca_certs suppress_ragged_eofs do_handshake_on_connect ciphers http_protocols http2_cleartext http2_max_concurrent_streams http2_initial_window_size http2_max_frame_size http2_max_header_list_size raw_paste_global_conf permit_obsolete_folding strip_header_spaces permit_unconventional_http_method permit_unconventional_http_version casefold_http_method forwarder_headers header_map asgi_loop asgi_lifespan asgi_disconnect_grace_period websocket_max_message_size http_parser root_path dirty_apps dirty_workers dirty_timeout dirty_threads dirty_graceful_timeout on_dirty_starting dirty_post_fork dirty_worker_init dirty_worker_exit control_socket control_socket_mode control_socket_disable worker_type metrics_bind metrics_path metrics_server metrics_state_dir metrics_buckets metrics_web_config app_metrics route_labels timeout_autopsy max_worker_memory gc_freeze preflight'

complete -c gunicorn-prom -n '__gunicorn_prom_command_is emit' -s o -l output -x -a '(__fish_complete_directories (commandline --current-token | string replace --regex "^--[^=]*=" ""))' -d 'Write the files into this directory and print their names.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is emit' -l force -d 'Overwrite files that are there already.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is emit' -l slo -x -d 'The share of requests that shall succeed, for alerts.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is emit' -s h -l help -d 'Show the help and exit.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is emit' -a '(__gunicorn_prom_dashboard_to_dockerfile)'

complete -c gunicorn-prom -n '__gunicorn_prom_command_is metrics' -l format -x -a 'text json markdown' -d 'How to write it: text, json or markdown.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is metrics' -s h -l help -d 'Show the help and exit.'

complete -c gunicorn-prom -n '__gunicorn_prom_command_is export' -l metrics-state-dir -x -a '(__fish_complete_directories (commandline --current-token | string replace --regex "^--[^=]*=" ""))' -d 'The state directory when no DIR is given. Without it that of this user.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is export' -l metrics-bind -x -d 'Where to serve, HOST:PORT.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is export' -l metrics-path -x -d 'The path under which the metrics are served.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is export' -l metrics-web-config -r -F -d 'TLS and passwords, as a web configuration file of Prometheus\'s exporters.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is export' -s h -l help -d 'Show the help and exit.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is export' -a '(__fish_complete_directories (commandline --current-token | string replace --regex "^--[^=]*=" ""))'

complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l url -x -d 'The metrics server, http://HOST:PORT. Without it: the one that runs here.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l state-dir -x -a '(__fish_complete_directories (commandline --current-token | string replace --regex "^--[^=]*=" ""))' -d 'The --metrics-state-dir of the server that is looked for.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l server -x -d 'Which server, of a sidecar that has several.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l once -d 'Show it once and exit.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l format -x -a 'text json' -d 'text, or json: the document of the server as it is, once.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l interval -x -d 'How often it is asked, 0.2 to 3600.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l sort -x -a '(__gunicorn_prom_id_to_oldest)' -d 'By what the workers are sorted: id, generation, pid, state, active, busy, rate, requests, memory, rss, cpu, threads, connections, waiting, uptime, heartbeat, oldest. With a dash before it the other way round.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l filter -x -d 'Only workers in whose id, pid, state or oldest request this is.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l user -x -d 'Who asks; the password from GUNICORN_PROM_PASSWORD or typed.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l password-file -r -F -d 'The password is the first line of this file.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l ca-file -r -F -d 'Trust the authorities in this file, not the machine\'s.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l insecure -d 'Trust any certificate of the server.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l cert -r -F -d 'The certificate to show, if the server wants one.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -l key -r -F -d 'The key of --cert, if it is not in the same file.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is top' -s h -l help -d 'Show the help and exit.'

complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l worker-type -x -a 'sync gthread gevent eventlet gevent_pywsgi tornado asgi uvicorn' -d 'sync, gthread, gevent, gevent_pywsgi, eventlet, tornado, asgi or uvicorn workers.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l metrics-bind -x -d 'The address of the metrics server, as HOST:PORT.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l metrics-path -x -d 'The path under which the metrics are served.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l metrics-server -x -a 'auto thread process none' -d 'Where the metrics server runs: auto, thread, process or none.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l metrics-state-dir -x -a '(__fish_complete_directories (commandline --current-token | string replace --regex "^--[^=]*=" ""))' -d 'The directory in which the scoreboard lives, best on tmpfs.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l metrics-buckets -x -d 'The upper bounds of the duration histograms, comma separated seconds.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l metrics-web-config -r -F -d 'TLS and passwords of the metrics server, as a web configuration file.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l app-metrics -d 'Serve the application\'s own prometheus_client metrics on the same endpoint.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l no-app-metrics -d 'Turn off --app-metrics.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l route-labels -d 'Count requests also by the route that the framework found for them.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l no-route-labels -d 'Turn off --route-labels.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l timeout-autopsy -d 'Log what a worker was doing when it timed out: the request and the stacks of its threads.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l no-timeout-autopsy -d 'Turn off --timeout-autopsy.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l max-worker-memory -x -d 'Replace a worker whose memory has grown past this size: 150MB, 2GiB.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l gc-freeze -d 'Keep the garbage collector away from what is there before the first worker is forked.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l no-gc-freeze -d 'Turn off --gc-freeze.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l preflight -d 'Tell before the launch, in one line, when an address cannot be had and who has it.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l no-preflight -d 'Turn off --preflight.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s c -l config -r -F -d 'The Gunicorn config file.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s b -l bind -x -d 'The socket to bind.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l backlog -x -d 'The maximum number of pending connections.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s w -l workers -x -d 'The number of worker processes for handling requests.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s k -l worker-class -x -a 'sync gevent gevent_wsgi gevent_pywsgi tornado gthread asgi' -d 'The type of workers to use.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l threads -x -d 'The number of worker threads for handling requests.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l worker-connections -x -d 'The maximum number of simultaneous clients.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l max-requests -x -d 'The maximum number of requests a worker will process before restarting.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l max-requests-jitter -x -d 'The maximum jitter to add to the *max_requests* setting.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s t -l timeout -x -d 'Workers silent for more than this many seconds are killed and restarted.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l graceful-timeout -x -d 'Timeout for graceful workers restart in seconds.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l keep-alive -x -d 'The number of seconds to wait for requests on a Keep-Alive connection.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l asgi-loop -x -a 'auto asyncio uvloop' -d 'Event loop implementation for ASGI workers.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l asgi-lifespan -x -a 'auto on off' -d 'Control ASGI lifespan protocol handling.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l asgi-disconnect-grace-period -x -d 'Grace period (seconds) for ASGI apps to handle client disconnects.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l websocket-max-message-size -x -d 'Largest WebSocket message, in bytes, the `asgi` worker accepts.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l http-parser -x -a 'auto fast python' -d 'HTTP parser implementation.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l limit-request-line -x -d 'The maximum size of HTTP request line in bytes.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l limit-request-fields -x -d 'Limit the number of HTTP headers fields in a request.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l limit-request-field_size -x -d 'Limit the allowed size of an HTTP request header field.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l reload -d 'Restart workers when code changes.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l reload-engine -x -a 'auto poll inotify' -d 'The implementation that should be used to power reload.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l reload-extra-file -r -F -d 'Extends reload option to also watch and reload on additional files (e.g., templates, configurations, specifications, etc.).'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l spew -d 'Install a trace function that spews every line executed by the server.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l check-config -d 'Check the configuration and exit.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l print-config -d 'Print the configuration settings as fully resolved.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l preload -d 'Load application code before the worker processes are forked.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l no-sendfile -d 'Disables the use of `sendfile()`.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l reuse-port -d 'Set the `SO_REUSEPORT` flag on the listening socket.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l chdir -x -a '(__fish_complete_directories (commandline --current-token | string replace --regex "^--[^=]*=" ""))' -d 'Change directory to specified directory before loading apps.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s D -l daemon -d 'Daemonize the Gunicorn process.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s e -l env -x -d 'Set environment variables in the execution environment.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s p -l pid -r -F -d 'A filename to use for the PID file.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l worker-tmp-dir -x -a '(__fish_complete_directories (commandline --current-token | string replace --regex "^--[^=]*=" ""))' -d 'A directory to use for the worker heartbeat temporary file.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s u -l user -x -a '(__fish_complete_users)' -d 'Switch worker processes to run as this user.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s g -l group -x -a '(__fish_complete_groups)' -d 'Switch worker process to run as this group.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s m -l umask -x -d 'A bit mask for the file mode on files written by Gunicorn.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l initgroups -d 'If true, set the worker process\'s group access list with all of the groups of which the specified username is a member, plus the specified group id.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l forwarded-allow-ips -x -d 'Front-end\'s IP addresses or networks from which allowed to handle set secure headers.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l pythonpath -x -a '(__fish_complete_directories (commandline --current-token | string replace --regex "^--[^=]*=" ""))' -d 'A comma-separated list of directories to add to the Python path.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l paste -l paster -r -F -d 'Load a PasteDeploy config file.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l proxy-protocol -a 'auto v1 v2 off' -d 'Enable PROXY protocol support.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l proxy-allow-from -x -d 'Front-end\'s IP addresses or networks from which allowed accept proxy requests (comma separated).'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l protocol -x -a 'http uwsgi' -d 'The protocol for incoming connections.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l uwsgi-allow-from -x -d 'IPs allowed to send uWSGI protocol requests (comma separated).'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l paste-global -x -d 'Set a PasteDeploy global config variable in `key=value` form.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l permit-obsolete-folding -d 'Permit requests employing obsolete HTTP line folding mechanism.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l strip-header-spaces -d 'Strip spaces present between the header name and the the `:`.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l permit-unconventional-http-method -d 'Permit HTTP methods not matching conventions, such as IANA registration guidelines.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l permit-unconventional-http-version -d 'Permit HTTP version not matching conventions of 2023.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l casefold-http-method -d 'Transform received HTTP methods to uppercase.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l forwarder-headers -x -d 'A list containing upper-case header field names that the front-end proxy (see forwarded-allow-ips) sets, to be used in WSGI environment.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l header-map -x -a 'drop refuse dangerous' -d 'Configure how header field names are mapped into environ.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l root-path -x -d 'The root path for ASGI applications.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l access-logfile -r -F -d 'The Access log file to write to.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l disable-redirect-access-to-syslog -d 'Disable redirect access logs to syslog.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l access-logformat -x -d 'The access log format.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l error-logfile -l log-file -r -F -d 'The Error log file to write to.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l log-level -x -a 'critical error warning info debug' -d 'The granularity of Error log outputs.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l capture-output -d 'Redirect stdout/stderr to specified file in errorlog.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l logger-class -x -d 'The logger you want to use to log events in Gunicorn.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l log-config -r -F -d 'The log config file to use.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l log-config-json -r -F -d 'The log config to read config from a JSON file.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l log-syslog-to -x -d 'Address to send syslog messages.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l log-syslog -d 'Send *Gunicorn* logs to syslog.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l log-syslog-prefix -x -d 'Makes Gunicorn use the parameter as program-name in the syslog entries.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l log-syslog-facility -x -a 'auth authpriv cron daemon ftp kern lpr mail news security syslog user uucp local0 local1 local2 local3 local4 local5 local6 local7' -d 'Syslog facility name.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s R -l enable-stdio-inheritance -d 'Enable stdio inheritance.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l statsd-host -x -d 'The address of the StatsD server to log to.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l dogstatsd-tags -x -d 'A comma-delimited list of datadog statsd (dogstatsd) tags to append to statsd metrics.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l statsd-prefix -x -d 'Prefix to use when emitting statsd metrics (a trailing `.` is added, if not provided).'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l enable-backlog-metric -d 'Enable socket backlog metric (only supported on Linux).'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -s n -l name -x -d 'A base to use with setproctitle for process naming.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l keyfile -r -F -d 'SSL key file.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l certfile -r -F -d 'SSL certificate file.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l ssl-version -x -d 'SSL version to use (see stdlib ssl module\'s).'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l cert-reqs -x -a '0 1 2' -d 'Whether client certificate is required (see stdlib ssl module\'s).'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l ca-certs -r -F -d 'CA certificates file.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l suppress-ragged-eofs -d 'Suppress ragged EOFs (see stdlib ssl module\'s).'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l do-handshake-on-connect -d 'Whether to perform SSL handshake on socket connect (see stdlib ssl module\'s).'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l ciphers -x -d 'SSL Cipher suite to use, in the format of an OpenSSL cipher list.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l http-protocols -x -a '(__fish_complete_list , __gunicorn_prom_h1_to_h2)' -d 'HTTP protocol versions to support (comma-separated, order = preference).'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l http2-cleartext -x -a 'off prior-knowledge upgrade both' -d 'Accept HTTP/2 over cleartext TCP (h2c), and by which mechanism.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l http2-max-concurrent-streams -x -d 'Maximum number of concurrent HTTP/2 streams per connection.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l http2-initial-window-size -x -d 'Initial HTTP/2 flow control window size in bytes.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l http2-max-frame-size -x -d 'Maximum HTTP/2 frame payload size in bytes.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l http2-max-header-list-size -x -d 'Maximum size of HTTP/2 header list in bytes (HPACK protection).'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l dirty-app -x -d 'Dirty applications to load in the dirty worker pool.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l dirty-workers -x -d 'The number of dirty worker processes.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l dirty-timeout -x -d 'Timeout for dirty task execution in seconds.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l dirty-threads -x -d 'The number of threads per dirty worker.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l dirty-graceful-timeout -x -d 'Timeout for graceful dirty worker shutdown in seconds.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l control-socket -r -F -d 'Unix socket path for control interface.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l control-socket-mode -x -d 'Permission mode for control socket.'
complete -c gunicorn-prom -n '__gunicorn_prom_command_is run check settings emit' -l no-control-socket -d 'Disable control socket.'
