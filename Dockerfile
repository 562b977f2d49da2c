# syntax=docker/dockerfile:1
# fer_jax in a container: by default the quickstart, on a CPU, as a user who is not root.
#
#   mkdir -p work && sudo chown 1000 work
#   docker build --tag fer_jax . && docker run --rm --volume "$PWD/work:/home/fer_jax" fer_jax
#   docker build --target cuda --tag fer_jax:cuda .
#   docker run --rm --gpus all --volume "$PWD/work:/home/fer_jax" fer_jax:cuda train --config=resnet

FROM python:3.12-slim-trixie AS build
COPY --from=ghcr.io/astral-sh/uv:0.13 /uv /bin/
ENV UV_CACHE_DIR=/cache UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
ENV UV_NO_DEV=1 UV_NO_EDITABLE=1
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
# The dependencies first: they change less often than the code.
RUN --mount=type=cache,target=/cache uv sync --extra gcs --extra s3 --no-install-project
COPY configs configs
COPY data_prep data_prep
COPY fer_jax fer_jax
RUN --mount=type=cache,target=/cache uv sync --extra gcs --extra s3

FROM build AS build-cuda
RUN --mount=type=cache,target=/cache uv sync --extra gcs --extra s3 --extra cuda

FROM build AS build-tpu
RUN --mount=type=cache,target=/cache uv sync --extra gcs --extra s3 --extra tpu

FROM python:3.12-slim-trixie AS runtime
RUN useradd --uid 1000 --no-create-home fer_jax && install --directory --owner=1000 /home/fer_jax
# Caches lie beside the runs, in a folder that this user may write.
ENV HOME=/home/fer_jax PATH=/app/.venv/bin:$PATH
WORKDIR /home/fer_jax
USER 1000
ENTRYPOINT ["fer_jax"]
CMD ["train", "--config=quickstart"]

FROM runtime AS cuda
COPY --from=build-cuda /app/.venv /app/.venv

FROM runtime AS tpu
COPY --from=build-tpu /app/.venv /app/.venv

FROM runtime AS cpu
COPY --from=build /app/.venv /app/.venv
