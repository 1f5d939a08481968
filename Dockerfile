# Command lines of sb3-matrl, on the CPU:
#     docker build -t sb3-matrl .
#     docker run --rm -v "$PWD/logs:/work/logs" sb3-matrl train --env checkers_v0 -n 100000
FROM python:3.11-slim

# The compiler is for the native backend.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /source
COPY requirements.txt .
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' requirements.txt)" \
    && pip install --no-cache-dir -r requirements.txt
COPY setup.py pyproject.toml README.md LICENSE ./
COPY sb3_matrl sb3_matrl
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && rm -rf /source

WORKDIR /work
ENTRYPOINT ["sb3-matrl"]
CMD ["--help"]
