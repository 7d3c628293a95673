# The official stack on a CUDA torch, with mmcv's operators built for these GPUs:
#   docker build -t mmseg_semi . && docker run --gpus all --shm-size 8g -it mmseg_semi
ARG TORCH=2.6.0
ARG CUDA=12.4
ARG CUDNN=9
FROM pytorch/pytorch:${TORCH}-cuda${CUDA}-cudnn${CUDNN}-devel

ARG TORCH_CUDA_ARCH_LIST="7.0 7.5 8.0 8.6 8.9 9.0+PTX"
ARG MAX_JOBS=8
# No GPU is visible during a build. The image is the environment, so pip may write to its Python.
ENV FORCE_CUDA=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1

RUN apt-get update \
    && apt-get install -y --no-install-recommends git libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /mmseg_semi
COPY . .
RUN bash tools/setup_env.sh
