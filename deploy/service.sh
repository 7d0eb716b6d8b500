# What quickstart starts and stops: Postgres, controller, agent. Sourced; needs $dir and $here.

say() { printf '\n== %s\n' "$*"; }

fail() {
    echo "quickstart: $1" >&2
    [ $# -lt 2 ] || echo "  what to do: $2" >&2
    exit 1
}

# Starts a program in the background: a session of its own, none of our descriptors (a pipe that somebody reads to its end would never
# end), and no other tie to this shell.
launch() {
    local name=$1 fd
    shift
    (
        for fd in "/proc/$BASHPID/fd"/*; do
            fd=${fd##*/}
            [ "$fd" -le 2 ] || eval "exec $fd>&-"
        done
        exec setsid "$@" </dev/null >>"$dir/log/$name.log" 2>&1
    ) &
    remember "$name" $!
}

# When a process started, in ticks since boot: with it, a number that was given away again is not mistaken.
started_at() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The name, in parentheses, may have spaces in it.
    set -- ${stat##*) }
    echo "${20}"
}

remember() {
    started_at "$2" >"$dir/run/.$1.started" || true
    echo "$2" >"$dir/run/$1.pid"
}

# The process of this name that quickstart started, if it lives.
running() {
    local pid started
    pid=$(head -n 1 "$dir/run/$1.pid" 2>/dev/null) || return 1
    [[ $pid =~ ^[0-9]+$ ]] && started=$(started_at "$pid") && [ "$started" = "$(cat "$dir/run/.$1.started" 2>/dev/null)" ] || return 1
    case $1 in
    controller | agent) [[ $(readlink "/proc/$pid/exe") == "$dir/bin/"* ]] || return 1 ;;
    esac
    echo "$pid"
}

# Ends a process and waits for it; kills it if it does not listen.
stop_one() {
    local name=$1 pid waited=0
    if pid=$(running "$name"); then
        kill -TERM "$pid" 2>/dev/null || true
        while kill -0 "$pid" 2>/dev/null && [ "$(state_of "$pid")" != Z ]; do
            [ "$waited" -lt 300 ] || { kill -KILL "$pid" 2>/dev/null || true; }
            [ "$waited" -lt 350 ] || fail "$name ($pid) does not end" "see $dir/log/$name.log"
            waited=$((waited + 1))
            sleep 0.1
        done
    fi
    rm -f "$dir/run/$name.pid" "$dir/run/.$name.started"
}

state_of() {
    sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null || true
}

stop_all() {
    [ -e "$dir/.quickstart" ] || return 0
    say "stopping"
    "$here/demo/disks" --stop-writer "$dir"
    stop_one agent
    "$here/demo/disks" --unmount "$dir"
    stop_one controller
    [ ! -e "$dir/postgres" ] || "$here/private-postgres" stop "$dir/postgres"
    rm -f "$dir/run/postgres.pid"
}

start_all() {
    start_postgres
    start_controller
    start_agent
}

start_postgres() {
    say "Postgres"
    database_url=$("$here/private-postgres" start "$dir/postgres")
    head -n 1 "$dir/postgres/data/postmaster.pid" >"$dir/run/postgres.pid"
    echo "runs ($(cat "$dir/run/postgres.pid"))"
}

# Ports are chosen once: agent and environment remember them.
choose_ports() {
    [ ! -s "$dir/ports" ] || return 0
    local operators=7444 agents=7443
    while is_taken "$operators" || is_taken "$agents"; do
        operators=$((20000 + RANDOM % 10000 * 2)) agents=$((operators + 1))
    done
    echo "$operators $agents" >"$dir/ports.new"
    mv "$dir/ports.new" "$dir/ports"
}

is_taken() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

start_controller() {
    say "controller"
    choose_ports
    read -r operators agents <"$dir/ports"
    if ! running controller >/dev/null; then
        "$dir/bin/holdfast-controller" init --data-dir "$dir/controller" --vault "$dir/vault" >"$dir/log/init.log" 2>&1 ||
            fail "the controller's files cannot be made: $(tail -n 3 "$dir/log/init.log")"
        HOLDFAST_DATABASE_URL=$database_url launch controller "$dir/bin/holdfast-controller" serve --data-dir "$dir/controller" \
            --operators "127.0.0.1:$operators" --agents "127.0.0.1:$agents"
    fi
    if [ ! -s "$dir/api-key" ]; then
        make_api_key
    fi
    export HOLDFAST_ADDRESS=https://127.0.0.1:$operators HOLDFAST_CA_FILE=$dir/controller/pki/ca.pem HOLDFAST_API_KEY_FILE=$dir/api-key
    local waited=0
    until "$dir/bin/holdfast" status >/dev/null 2>"$dir/log/status.log"; do
        running controller >/dev/null || fail "the controller ended: $(tail -n 3 "$dir/log/controller.log")" "see $dir/log/controller.log"
        [ "$waited" -lt 300 ] || fail "the controller does not answer: $(tail -n 1 "$dir/log/status.log")" "see $dir/log/controller.log"
        waited=$((waited + 1))
        sleep 0.2
    done
    echo "runs ($(running controller)), operators on port $operators, agents on port $agents"
}

# A name of its own each time: of one that an interrupted run made, the key is lost.
make_api_key() {
    local waited=0 name
    name=quickstart-$(date +%s)
    until (umask 077 && HOLDFAST_DATABASE_URL=$database_url "$dir/bin/holdfast-controller" api-key create --data-dir "$dir/controller" \
        --name "$name" --role admin >"$dir/api-key.new" 2>"$dir/log/api-key.log"); do
        [ "$waited" -lt 100 ] || fail "no API key can be made: $(tail -n 3 "$dir/log/api-key.log")" "see $dir/log/controller.log"
        waited=$((waited + 1))
        sleep 0.2
    done
    mv "$dir/api-key.new" "$dir/api-key"
}

start_agent() {
    say "agent"
    machine=$(cat "$dir/machine" 2>/dev/null || hostname | cut -d. -f1)
    write_agent_config
    if [ ! -e "$dir/agent/identity/agent.json" ]; then
        enrol
    fi
    running agent >/dev/null || launch agent "$dir/bin/holdfast-agent" run --config "$dir/agent.toml"
    local waited=0 state
    until state=$("$dir/bin/holdfast" machine show "$machine" -o json 2>/dev/null | jq -r .state); [ "$state" = online ]; do
        [ "$state" != removed ] || fail "the machine $machine was removed" \
            "its points stay; to protect it anew, as a new machine: run this with --stop, rm -r $dir/agent/identity, and run it again"
        running agent >/dev/null || fail "the agent ended: $(tail -n 3 "$dir/log/agent.log")" "see $dir/log/agent.log"
        [ "$waited" -lt 300 ] || fail "the agent does not reach the controller" "see $dir/log/agent.log"
        waited=$((waited + 1))
        sleep 0.2
    done
    echo "runs ($(running agent)) as machine $machine"
}

enrol() {
    (umask 077 && "$dir/bin/holdfast" token create --uses 1 --ttl 10m --label made-by=quickstart -o json | jq -r .token >"$dir/run/.token")
    "$dir/bin/holdfast-agent" enrol --config "$dir/agent.toml" --ca-file "$dir/controller/pki/ca.pem" --name "$machine" \
        --token-file "$dir/run/.token" >"$dir/log/enrol.log" 2>&1 || {
        rm -f "$dir/run/.token"
        fail "the agent cannot be enrolled: $(tail -n 3 "$dir/log/enrol.log")"
    }
    rm -f "$dir/run/.token"
    echo "$machine" >"$dir/machine"
}

# Disks of the operator are remembered in $dir/disks, one NAME=PATH per line; the demonstration's in $dir/demo/agent.toml. What was
# written last is kept, so that a file which somebody edited is not overwritten.
write_agent_config() {
    local disk name path
    touch "$dir/disks"
    for disk in "${new_disks[@]}"; do
        name=${disk%%=*} path=$(realpath -e -- "${disk#*=}")
        { awk -F= -v name="$name" '$1 != name' "$dir/disks"; echo "$name=$path"; } >"$dir/disks.new"
        mv "$dir/disks.new" "$dir/disks"
    done
    {
        echo "# Written by deploy/quickstart: add disks with its --disk, or in $dir/disks, one NAME=PATH per line. Once you have edited this"
        echo "# file, quickstart leaves it alone; \`kill -HUP \$(cat $dir/run/agent.pid)\` has the agent read its disks again."
        echo "controller = \"https://127.0.0.1:$agents\""
        echo "state_dir = \"$dir/agent\""
        echo "discover = false"
        cat "$dir/demo/agent.toml" 2>/dev/null || true
        while IFS='=' read -r name path; do
            printf '\n[[disk]]\nname = "%s"\npath = "%s"\n' "$name" "$path"
        done <"$dir/disks"
    } >"$dir/agent.toml.new"
    if [ -e "$dir/agent.toml" ] && [ -e "$dir/.agent.toml.written" ] && ! cmp -s "$dir/agent.toml" "$dir/.agent.toml.written" &&
        ! cmp -s "$dir/agent.toml" "$dir/agent.toml.new"; then
        cmp -s "$dir/agent.toml.new" "$dir/.agent.toml.written" ||
            fail "$dir/agent.toml was edited by hand, and is not overwritten" \
                "put into it by hand what $dir/agent.toml.new has more, and then: cp $dir/agent.toml.new $dir/.agent.toml.written"
        echo "$dir/agent.toml was edited by hand, and stays as it is"
        rm "$dir/agent.toml.new"
        return
    fi
    if ! cmp -s "$dir/agent.toml.new" "$dir/agent.toml"; then
        mv "$dir/agent.toml.new" "$dir/agent.toml"
        # Not everything in it is read again while the agent runs.
        stop_one agent
    else
        rm "$dir/agent.toml.new"
    fi
    cp "$dir/agent.toml" "$dir/.agent.toml.written.new"
    mv "$dir/.agent.toml.written.new" "$dir/.agent.toml.written"
}

write_env() {
    cat >"$dir/env.new" <<TEXT
# Source this: . $dir/env
export HOLDFAST_ADDRESS=$HOLDFAST_ADDRESS
export HOLDFAST_CA_FILE=$HOLDFAST_CA_FILE
export HOLDFAST_API_KEY_FILE=$HOLDFAST_API_KEY_FILE
case ":\$PATH:" in *":$dir/bin:"*) ;; *) export PATH=$dir/bin:\$PATH ;; esac
TEXT
    mv "$dir/env.new" "$dir/env"
}
