#!/usr/bin/env bash
# Build the image from this checkout with whichever builder is there: docker, podman or buildah.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deploy/build-image.sh [options]

  --tag NAME         name of the image (cdc-outbox:local)
  --engine NAME      docker, podman or buildah (the first of them that works)
  --base IMAGE       base image instead of the Dockerfile's
  --local-base       no registry: make the base with debootstrap (Debian trixie, Python 3.13). Needs root, and podman or buildah.
                     The base and the images are kept in ${XDG_CACHE_HOME:-~/.cache}/cdc-outbox/image; the way to them is printed
  --print-engine     with the options above: print the engine's command line and build nothing

pip's own settings (index, proxy, CA bundle) reach the build as secrets, so that none of them stays in a layer.
TEXT
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/cdc-outbox/image
tag=cdc-outbox:local engine='' base='' local_base='' print_engine=''

die() {
  printf 'build-image.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

while (($#)); do
  case $1 in
    --tag) tag=${2:?--tag needs a name} && shift ;;
    --engine) engine=${2:?--engine needs a name} && shift ;;
    --base) base=${2:?--base needs an image} && shift ;;
    --local-base) local_base=yes ;;
    --print-engine) print_engine=yes ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && die "unknown option $1" 2 ;;
  esac
  shift
done

# A client without its daemon is no builder.
works() {
  case $1 in
    docker) docker info >/dev/null 2>&1 ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# overlay where this kernel and file system let us mount one; else vfs, which asks for nothing, and copies everything.
storage_driver() {
  local probe driver=vfs
  mkdir -p "$cache"
  probe=$(mktemp -d -p "$cache")
  mkdir "$probe"/{lower,upper,work,merged}
  if mount -t overlay overlay -o "lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work" "$probe/merged" 2>/dev/null; then
    umount "$probe/merged"
    driver=overlay
  fi
  rm -rf "$probe"
  printf '%s\n' "$driver"
}

find_engine() {
  local candidates=(docker podman buildah) candidate
  [[ $local_base ]] && candidates=(podman buildah)
  for candidate in "${candidates[@]}"; do
    works "$candidate" && engine=$candidate && return
  done
  die "none of ${candidates[*]} works here: install one (apt-get install buildah)"
}

# Debian's own Python in a root file system as small as debootstrap makes one, packed once and kept.
make_base() {
  local archive=$cache/base-trixie.tar work mirror
  [[ -s $archive ]] && return
  ((EUID == 0)) || die 'debootstrap needs root'
  command -v debootstrap >/dev/null || die 'debootstrap is missing: apt-get install debootstrap'
  # shellcheck disable=SC2016  # apt fills the name in
  # The mirror that this machine's apt uses; none where apt has none, and debootstrap takes its default.
  mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | head -n 1 || true)
  work=$(mktemp -d)
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv trixie "$work/root" ${mirror:+"$mirror"} >"$work/log" 2>&1 ||
    { tail -n 5 "$work/log" >&2 && die "debootstrap failed; its log is $work/log"; }
  # What slim images leave out as well.
  find "$work"/root/usr/share/{doc,locale,man} "$work"/root/var/{cache,lib/apt/lists,log} -type f -delete
  tar --create --numeric-owner --directory "$work/root" --file "$archive.$$" .
  mv "$archive.$$" "$archive"
  rm -rf "$work"
}

load_base() {
  base=localhost/cdc-outbox-base:trixie
  "${command[@]}" inspect --type image "$base" >/dev/null 2>&1 && return
  if [[ $engine == podman ]]; then
    podman "${command[@]:1}" import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$cache/base-trixie.tar" "$base" >/dev/null
  else
    local container
    container=$("${command[@]}" from scratch)
    "${command[@]}" add --quiet "$container" "$cache/base-trixie.tar" / >/dev/null
    "${command[@]}" config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    "${command[@]}" commit --quiet --rm "$container" "$base" >/dev/null
  fi
}

# pip's settings for package sources, as a pip.conf; later sources win, as they do for pip.
pip_config() {
  python3 -m pip config list 2>/dev/null | awk -F= '
    { name = $1; sub(/^.*\./, "", name); value = substr($0, length($1) + 2); gsub(/^\x27|\x27$/, "", value); gsub(/\\n/, " ", value) }
    name ~ /^(index-url|extra-index-url|trusted-host|proxy)$/ { kept[name] = value }
    END { print "[global]"; for (name in kept) print name " = " kept[name] }'
}

ca_certificates() {
  local file
  for file in "${PIP_CERT:-}" "$(python3 -m pip config get global.cert 2>/dev/null || true)" "${SSL_CERT_FILE:-}"; do
    [[ -n $file && -r $file ]] && printf '%s\n' "$file" && return
  done
  return 0
}

if [[ $engine ]]; then
  works "$engine" || die "$engine does not work here"
else
  find_engine
fi
command=("$engine")
if [[ $local_base ]]; then
  [[ $engine != docker ]] || die '--local-base needs podman or buildah' 2
  # A storage of its own: what it holds is ours to replace.
  driver=$(storage_driver)
  command+=(--root "$cache/$driver" --runroot "$cache/$driver-run" --storage-driver "$driver")
fi
if [[ $print_engine ]]; then
  printf '%s\n' "${command[*]}"
  exit
fi

secrets=$(mktemp -d)
trap 'rm -rf "$secrets"' EXIT
pip_config >"$secrets/pip-config"

options=(--file "$here/deploy/Dockerfile" --tag "$tag" --secret "id=pip-config,src=$secrets/pip-config")
ca=$(ca_certificates)
[[ $ca ]] && options+=(--secret "id=ca-certificates,src=$ca")
options+=(--build-arg "VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$here/cdc_outbox/__init__.py")")
options+=(--build-arg "REVISION=$(git -C "$here" rev-parse HEAD 2>/dev/null || echo unknown)")
if [[ $local_base ]]; then
  mkdir -p "$cache"
  make_base
  load_base
  options+=(--isolation chroot --network host --pull=never --layers=false)
fi
[[ $base ]] && options+=(--build-arg "BASE_IMAGE=$base")
# HEALTHCHECK is part of Docker's image format only.
[[ $engine != docker ]] && options+=(--format docker)

"${command[@]}" build "${options[@]}" "$here" || {
  status=$?
  if [[ ! $local_base ]]; then
    cat >&2 <<TEXT
build-image.sh: the build failed. If the registry of the base image cannot be reached from here:
  deploy/build-image.sh --base IMAGE     an image with Python 3.11 or newer from a registry that can be reached, or that is here already
  deploy/build-image.sh --local-base     no registry: a base made with debootstrap (root, and podman or buildah)
TEXT
  fi
  exit "$status"
}
printf 'built %s\n' "$tag"
if [[ $local_base ]]; then
  # Drop the images that lost their name to this build.
  if [[ $engine == podman ]]; then "${command[@]}" image prune --force; else "${command[@]}" rmi --prune; fi >/dev/null
  printf 'look at it with: %s images\n' "${command[*]}"
fi
