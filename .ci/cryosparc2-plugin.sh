#!/usr/bin/env bash
# Installs Scipion's cryoSPARC plugin into a separate folder: .ci/cryosparc2-plugin.sh FOLDER
# --no-deps: Scipion is already installed, and the plugin's conversions need neither cryoSPARC nor its tools.
set -eu
folder=$1
[ -d "$folder/cryosparc2" ] && exit 0
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" \
    scipion-em-cryosparc2==5.0.1 emtable==0.0.14
