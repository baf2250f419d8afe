#!/usr/bin/env bash
# Makes a virtual environment with cryoDRGN, apart from the engine's: .ci/cryodrgn-env.sh FOLDER
# torch by version and first: an open range fetches gigabytes of GPU libraries on machines without a GPU.
set -eu
folder=$1
[ -x "$folder/bin/cryodrgn" ] && exit 0
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$folder/bin/pip" install --quiet --disable-pip-version-check cryodrgn==4.3.1 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 \
    scikit-learn==1.9.1 starfile==0.5.13
"$folder/bin/cryodrgn" --version
