# An image whose build rehearses the demo:  docker build -t vlp_bench . && docker run --rm -it vlp_bench --help
FROM python:3.11-slim AS wheel
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /dist

FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt /tmp/
COPY --from=wheel /dist /tmp/dist
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c /tmp/constraints.txt /tmp/dist/*.whl
RUN useradd --create-home user
USER user
WORKDIR /home/user
RUN vlp-bench run +exp=xvlm_itr pruner=multiflow sparsity=0.9 rehearse=true paths.out=/tmp/rehearsal && rm -r /tmp/rehearsal
ENTRYPOINT ["vlp-bench"]
CMD ["--help"]
