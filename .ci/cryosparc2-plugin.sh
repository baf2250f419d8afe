#!/usr/bin/env bash
# Scipion's plugin for cryoSPARC in a folder of its own: .ci/cryosparc2-plugin.sh FOLDER
# Without its requirements (--no-deps): Scipion is there, and its conversions need neither cryoSPARC nor its tools.
set -eu
folder=$1
[ -d "$folder/cryosparc2" ] && exit 0
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" \
    scipion-em-cryosparc2==5.0.1 emtable==0.0.14
