#!/usr/bin/env bash
# Make service.log again: nginx, three small Python services and a client, all on
# 127.0.0.1, for about a minute.
#
# usage: make.sh [OUTPUT]        (default: service.log beside this script)
# BASE_PORT=18080 sets the first of the four ports used.
set -euo pipefail

fail() { echo "make.sh: $*" >&2; exit 1; }

[[ $0 == */* ]] && here=${0%/*} || here=.
here=$(cd "$here" && pwd)
out=${1:-$here/service.log}
[[ $out == /* ]] || out=$PWD/$out
PATH=$PATH:/usr/sbin:/sbin
# The system's Python first, so that tracebacks name its usual library path.
python=/usr/bin/python3
[ -x "$python" ] || python=$(command -v python3) || fail "python3 is not on PATH"
command -v nginx >/dev/null || fail "nginx is not on PATH (Debian: apt-get install nginx-light)"
command -v timeout >/dev/null || fail "timeout is not on PATH (it is part of GNU coreutils)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' || fail "python3 is older than 3.8"
"$python" -c 'import sqlite3' 2>/dev/null || fail "python3 has no sqlite3 module"
[ -d "${out%/*}" ] || fail "no such directory: ${out%/*}"
[ ! -d "$out" ] || fail "$out is a directory"
if [ -e "$out" ]; then [ -w "$out" ]; else [ -w "${out%/*}" ]; fi || fail "cannot write $out"

base=${BASE_PORT:-18080}
[[ $base =~ ^[0-9]{4,5}$ ]] && [ "$base" -le 65532 ] || fail "BASE_PORT is not a port number: $base"
export FRONT_PORT=$base ORDERS_PORT=$((base + 1)) PAYMENTS_PORT=$((base + 2)) INVENTORY_PORT=$((base + 3))
export SERVICE_LOG=service.log TZ=UTC LC_ALL=C PYTHONDONTWRITEBYTECODE=1

# True if something listens on port $1.
listening() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
for port in "$FRONT_PORT" "$ORDERS_PORT" "$PAYMENTS_PORT" "$INVENTORY_PORT"; do
    if listening "$port"; then fail "port $port is in use; set BASE_PORT to another"; fi
done

dir=$(mktemp -d)
pids=()
clean_up() {
    trap - EXIT
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

chmod 755 "$dir"
mkdir -p "$dir"/{app,tmp,www/img,www/reports}
cp "$here"/make/*.py "$dir/app/"
echo '<p>shop' >"$dir/www/index.html"
cd "$dir"

# nginx refuses a temp path for a module it was built without.
built=$(nginx -V 2>&1)
paths=
for module in fastcgi uwsgi scgi; do
    [[ $built == *--without-http_${module}_module* ]] || paths+="${module}_temp_path tmp/$module; "
done
sed -e "s|@TEMP_PATHS@|$paths|" -e "s|@FRONT_PORT@|$FRONT_PORT|" -e "s|@ORDERS_PORT@|$ORDERS_PORT|" \
    -e "s|@PAYMENTS_PORT@|$PAYMENTS_PORT|" -e "s|@INVENTORY_PORT@|$INVENTORY_PORT|" \
    "$here/make/nginx.conf.in" >nginx.conf

# Everything runs under a time limit, in $dir, with relative paths.
run() { timeout -k 5 110 "$@" 2>>stderr.txt & pids+=($!); }
run "$python" app/launch.py app/shared_log.py app/supervise.py
run "$python" app/launch.py app/shared_log.py app/store.py app/stock.py app/orders.py
run "$python" app/launch.py app/shared_log.py app/payments.py
run nginx -p ./ -c nginx.conf -e service.log

for port in "$INVENTORY_PORT" "$ORDERS_PORT" "$FRONT_PORT" "$PAYMENTS_PORT"; do
    for try in {1..50}; do
        if listening "$port"; then break; fi
        [ "$try" -lt 50 ] || { cat stderr.txt >&2; fail "nothing listens on port $port after 5 s"; }
        sleep 0.1
    done
done

echo "make.sh: running for about a minute in $dir"
# In the background, so that a signal to this script is acted on at once.
timeout -k 5 100 "$python" app/drive.py & client=$!
pids+=("$client")
wait "$client" || fail "the client did not finish"

for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
if [ -s stderr.txt ]; then cat stderr.txt >&2; fi
cp service.log "$out"
"$python" "$here/make/count.py" "$out"
echo
echo "make.sh: the log is $out"
