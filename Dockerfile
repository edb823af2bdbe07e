# The operator's image: slim, non-root, no compiler, no torch.
#
#   docker build -t finetune-operator .
#
# The dependency layer depends on the locked versions alone; a change of code is one small layer.
ARG BASE_IMAGE=docker.io/library/python:3.13-slim

# ---- lock: the locked versions of this image, as a list; uv stays in this stage
FROM ${BASE_IMAGE} AS lock
ARG UV_VERSION=0.13.9
# The optional secret `ca-bundle` holds certificates to trust while building, for networks with a proxy of their own.
RUN --mount=type=secret,id=ca-bundle \
    if [ -s /run/secrets/ca-bundle ]; then export PIP_CERT=/run/secrets/ca-bundle; fi \
    && python3 -m venv /uv \
    && /uv/bin/python -m pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"
COPY pyproject.toml uv.lock /lock/
RUN /uv/bin/uv export --directory /lock --frozen --no-dev --no-emit-project --extra operator \
    --no-header --no-annotate --quiet --output-file /lock/requirements.txt

# ---- code: our packages with their bytecode, for the root file system is read-only at run time
FROM ${BASE_IMAGE} AS code
COPY operator/src/finetune_api /opt/finetune/finetune_api
COPY operator/src/finetune_operator /opt/finetune/finetune_operator
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/finetune

# ---- the image
FROM ${BASE_IMAGE}
COPY --from=lock /lock/requirements.txt /opt/requirements.txt
RUN --mount=type=secret,id=ca-bundle --mount=type=bind,from=lock,source=/uv,target=/uv \
    if [ -s /run/secrets/ca-bundle ]; then export SSL_CERT_FILE=/run/secrets/ca-bundle; fi \
    && echo 'finetune:x:65532:65532:finetune:/tmp:/usr/sbin/nologin' >>/etc/passwd \
    && python3 -m venv --without-pip /opt/venv \
    && /uv/bin/uv pip sync --no-cache --require-hashes --compile-bytecode --python /opt/venv/bin/python \
    /opt/requirements.txt
COPY --from=code /opt/finetune /opt/finetune
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/finetune \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["/opt/venv/bin/python", "-m", "finetune_operator"]
