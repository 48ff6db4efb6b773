# The image of kuberay.yaml: docker build -t REPLACE/suite:2.60.0-py311 . && docker push REPLACE/suite:2.60.0-py311
FROM rayproject/ray:2.60.0-py311-gpu
COPY --chown=ray:users requirements.txt pyproject.toml /home/ray/suite/
RUN sed '/for development/,$d' /home/ray/suite/requirements.txt | pip install --no-cache-dir -r /dev/stdin
COPY --chown=ray:users suite /home/ray/suite/suite
COPY --chown=ray:users search_spaces /home/ray/suite/search_spaces
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e /home/ray/suite
