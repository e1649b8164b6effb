#!/bin/sh
# What the image runs first: a home for users that it does not know, and a word about a mounted folder before a notebook
# cannot be saved in it.
[ -w "$HOME" ] || HOME=$(mktemp --directory) && export HOME
work=/home/stemm/lab/notebooks/work
if [ ! -w "$work" ]; then
    echo "The folder that is mounted as $work belongs to user $(stat -c %u "$work"), and this container runs as user $(id -u):" >&2
    echo "nothing can be saved there. Make the folder before the container does, and run it as its owner: --user \"\$(id -u):0\"" >&2
fi
exec "$@"
