#!/usr/bin/env bash
# Tenkaigen on a Supabase project and a Modal workspace, step by step; docs/setup.md is the guide.
#
#   ./deploy.sh [--dry-run] [--again] [STEP ...]
#
#   STEP       check migrate buckets secrets weights service image smoke; none: all, in this order
#   --dry-run  print every step and command, do nothing
#   --again    do what was done before as well
#
# Settings come from the environment, else from .env. The first failure ends it; nothing after it is done.
# .deploy/ keeps a hash of what went into a step, so that a second run does only what has changed. Secrets
# reach programs by their environment or by a file that is gone afterwards, never as an argument.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
PATH="$PATH:$PWD/.venv/bin"
umask 077

ALL=(check migrate buckets secrets weights service image smoke)
needs() { # settings, and programs
  case $1 in
    migrate) echo DATABASE_ADMIN_URL DATABASE_URL tenkaigen ;;
    buckets) echo DATABASE_URL WEBHOOK_SECRET URL_SIGNING_KEY tenkaigen ;;
    secrets) echo SITE_URL WEBHOOK_SECRET RECIPE_SECRET modal python3 ;;
    weights | service) echo modal ;;
    image) echo docker ;;
    smoke) echo SITE_URL TENKAIGEN_KEY tenkaigen ;;
  esac
}
undo() {
  case $1 in
    migrate) echo "migrations only add; to go back, restore the backup of before (Supabase: Database, Backups)" ;;
    secrets) echo "modal secret delete tenkaigen-secrets" ;;
    weights) echo "modal volume rm -r model-cache /OWNER--NAME" ;;
    service) echo "modal app rollback tenkaigen, or for good modal app stop tenkaigen" ;;
    image) echo "docker image rm tenkaigen-gateway:TAG, and run the tag before" ;;
    check | buckets | smoke) echo "nothing, it changes nothing" ;;
    *) return 1 ;;
  esac
}
SECRETS=(TENKAIGEN_WEBHOOK_URL TENKAIGEN_WEBHOOK_SECRET RECIPE_SECRET GPU_ORIGINS)
GATEWAY_FILES=(Dockerfile .dockerignore pyproject.toml requirements.lock README.md gateway styles
  supabase/migrations modal_app/__init__.py modal_app/contract.py modal_app/catalog)

main() {
  local steps=() step
  dry_run="" again="" current=check
  for word in "$@"; do
    case $word in
      --dry-run) dry_run=yes ;;
      --again) again=yes ;;
      *) undo "$word" > /dev/null || usage; steps+=("$word") ;;
    esac
  done
  [[ ${#steps[@]} -gt 0 ]] || steps=("${ALL[@]}")
  load_settings
  memory=".deploy/${MODAL_ENVIRONMENT:-main}"
  trap finish EXIT
  check "${steps[@]}"
  for step in "${steps[@]}"; do
    [[ $step != check ]] || continue
    current=$step
    say "$step"
    "$step"
  done
}

# --- steps ---

check() {
  local step need missing=()
  say check
  for step in "$@"; do
    for need in $(needs "$step"); do
      is_there "$need" || missing+=("$need")
    done
  done
  if [[ ${#missing[@]} -gt 0 ]]; then
    printf '   missing: %s\n' "${missing[@]}" | sort -u
    [[ -n $dry_run ]] || { echo "Set what is missing in .env, or install it: docs/setup.md"; exit 1; }
  fi
}

migrate() { run tenkaigen migrate; }

buckets() { run tenkaigen doctor --only login_roles --only migrations --only buckets; }

secrets() {
  local file="" inputs
  export TENKAIGEN_WEBHOOK_URL="${SITE_URL-}" TENKAIGEN_WEBHOOK_SECRET="${WEBHOOK_SECRET-}"
  TENKAIGEN_WEBHOOK_URL="${TENKAIGEN_WEBHOOK_URL%/}/api/generate/webhook"
  # References and LoRAs are fetched from the gateway, or from the bucket where that signs their addresses.
  export GPU_ORIGINS="${GPU_ORIGINS:-${SITE_URL-}${SUPABASE_URL:+,$SUPABASE_URL}}"
  inputs=$(for name in "${SECRETS[@]}"; do printf '%s=%s\n' "$name" "${!name-}"; done | hash)
  is_done secrets "$inputs" && return
  if [[ -z $dry_run ]]; then
    secrets_file=$(mktemp)
    file=$secrets_file
    python3 -c 'import json, os, sys
print(json.dumps({name: os.environ[name] for name in sys.argv[1:] if os.environ.get(name)}))' \
      "${SECRETS[@]}" > "$file"
  fi
  run modal secret create tenkaigen-secrets --force --from-json "${file:-FILE}"
  [[ -n $dry_run ]] && printf '     FILE: %s\n' "${SECRETS[*]}"
  remember secrets "$inputs"
}

weights() {
  local models="${WEIGHTS:-qwen-image-fast,qwen-image-edit-fast}" inputs
  inputs=$({ echo "$models ${ACCEPT-}"; content modal_app/catalog modal_app/weights; } | hash)
  is_done weights "$inputs" && return
  run modal run -m modal_app.weights --models "$models" ${ACCEPT:+--accept "$ACCEPT"}
  remember weights "$inputs"
}

service() {
  local inputs
  inputs=$({ content modal_app; cat "$memory/secrets" 2> /dev/null || true; } | hash)
  is_done service "$inputs" && return
  run modal deploy -m modal_app.app
  remember service "$inputs"
  echo "   Its address belongs into MODAL_GENERATE_ENDPOINT of the gateway."
}

image() {
  local inputs name
  inputs=$(content "${GATEWAY_FILES[@]}" | hash)
  name="tenkaigen-gateway:${inputs:0:12}"
  if [[ -n $dry_run || -n $again ]] || ! docker image inspect "$name" > /dev/null 2>&1; then
    run docker build --tag "$name" --tag tenkaigen-gateway:latest .
  else
    echo "   unchanged: $name"
  fi
  [[ -n ${REGISTRY-} ]] || return 0
  is_done push "$REGISTRY/$name" && return
  run docker tag "$name" "$REGISTRY/$name"
  run docker push "$REGISTRY/$name"
  remember push "$REGISTRY/$name"
}

smoke() {
  if [[ -z $dry_run && -z ${TENKAIGEN_KEY-} ]]; then
    [[ -s .deploy/key ]] || make_key
    TENKAIGEN_KEY=$(< .deploy/key)
    export TENKAIGEN_KEY
  fi
  run tenkaigen doctor --url "${SITE_URL:-SITE_URL}"
}

# --- what they share ---

load_settings() {
  local line name value
  [[ -f .env ]] || return 0
  while IFS= read -r line || [[ -n $line ]]; do
    [[ $line =~ ^(export )?([A-Z_][A-Z0-9_]*)=(.+)$ ]] || continue
    name=${BASH_REMATCH[2]} value=${BASH_REMATCH[3]}
    [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]] && value=${BASH_REMATCH[1]}
    [[ -n ${!name-} ]] || export "$name=$value"
  done < .env
}

is_there() {
  case $1 in
    TENKAIGEN_KEY) [[ -n ${TENKAIGEN_KEY-}${OWNER_EMAIL-} || -s .deploy/key ]] ;;
    [A-Z]*) [[ -n ${!1-} ]] ;;
    *) command -v "$1" > /dev/null ;;
  esac
}

make_key() {
  mkdir -p .deploy
  tenkaigen keys create --user "$OWNER_EMAIL" --scope generate --scope read > .deploy/key.part
  mv .deploy/key.part .deploy/key
}

usage() {
  sed -n '2,13s/^# \{0,1\}//p' deploy.sh
  exit 2
}

say() { printf '== %s (undo: %s)\n' "$1" "$(undo "$1")"; }

run() {
  printf '   $ %s\n' "$*"
  [[ -n $dry_run ]] || "$@"
}

hash() { sha256sum | cut -d' ' -f1; }

content() { find -L "$@" -type f -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum; }

is_done() { # STEP INPUTS
  [[ -z $dry_run && -z $again && -f $memory/$1 && $(< "$memory/$1") == "$2" ]] || return 1
  echo "   unchanged since it was done"
}

remember() { # STEP INPUTS
  [[ -z $dry_run ]] || return 0
  mkdir -p "$memory"
  printf '%s\n' "$2" > "$memory/$1"
}

finish() {
  local status=$?
  [[ -z ${secrets_file-} ]] || rm -f "$secrets_file"
  rm -f .deploy/key.part
  if [[ $status -ne 0 ]]; then
    printf 'deploy: %s failed, and nothing after it was done. Undo: %s\n' "$current" "$(undo "$current")" >&2
    [[ $current != smoke ]] || echo "Does a gateway run there, with these settings? docs/setup.md" >&2
  elif [[ -n $dry_run ]]; then
    echo "Nothing was done: this was a dry run."
  else
    echo "Done."
  fi
}

main "$@"
