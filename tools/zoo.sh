#!/usr/bin/env bash
# Make an environment for packages that cannot stand beside those of another one: zoo.sh PYTHON FOLDER. PYTHON's packages are seen behind its own.
# - kipoi wants attrs 21, jsonschema a later one; enformer-pytorch wants transformers 4.56.2, borzoi-pytorch a later one.
# - onnxscript is what torch.onnx.export wants; only tests export.
# - onnx2torch brings a torchvision that does not load beside torch for the CPU; bpnet-lite brings MACS3, which is compiled for minutes;
#   gReLU brings a hundred packages for data and plots. None of these is needed for the networks, so the three come without what they bring.
set -euo pipefail
base=$("$1" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
"$1" -m venv "$2"
echo "import site; site.addsitedir('$base')" > "$("$2/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/behind.pth"
pip=("$2/bin/python" -m pip --disable-pip-version-check install --quiet --constraint constraints.txt)
"${pip[@]}" 'enformer-pytorch>=0.8.12,<0.9' 'pytorch-lightning>=2.6,<3' 'bioframe>=0.8,<0.9' 'kipoi>=0.8.6,<0.9' 'kipoiseq>=0.7.1,<0.8' six pybedtools
"${pip[@]}" --no-deps 'onnx>=1.19.1,<2' 'ml_dtypes>=0.5' protobuf 'onnx2torch>=1.5.15,<2' 'onnxscript>=0.7,<1' 'onnx_ir>=1.1,<2' 'bpnet-lite>=1.1,<2' 'gReLU>=1.1,<2'
