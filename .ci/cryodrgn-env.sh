#!/usr/bin/env bash
# Makes a separate virtual environment with cryoDRGN: .ci/cryodrgn-env.sh FOLDER
# torch is installed first, with its version: without one, pip downloads gigabytes of GPU libraries, also without a GPU.
# --no-compile halves the time of the installation: Python then compiles a module when it is first imported.
set -eu
folder=$1
[ -x "$folder/bin/cryodrgn" ] && exit 0
python3 -m venv "$folder"
pip=("$folder/bin/pip" install --quiet --disable-pip-version-check --no-compile)
"${pip[@]}" torch==2.13.0
"${pip[@]}" cryodrgn==4.3.1 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 scikit-learn==1.9.1 starfile==0.5.13
"$folder/bin/cryodrgn" --version
