#!/usr/bin/env bash
# Makes a virtual environment with cryoDRGN, apart from the engine's: .ci/cryodrgn-env.sh FOLDER
# torch by version and first: an open range fetches gigabytes of GPU libraries on machines without a GPU.
# Half of an installation's time is compiling; --no-compile leaves it to the first import, of what is imported.
set -eu
folder=$1
[ -x "$folder/bin/cryodrgn" ] && exit 0
python3 -m venv "$folder"
pip=("$folder/bin/pip" install --quiet --disable-pip-version-check --no-compile)
"${pip[@]}" torch==2.13.0
"${pip[@]}" cryodrgn==4.3.1 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 scikit-learn==1.9.1 starfile==0.5.13
"$folder/bin/cryodrgn" --version
