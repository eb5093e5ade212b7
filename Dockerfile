# The HTTP service: docker build --tag emotion . && docker run --publish 8000:8000 emotion
FROM python:3.12-slim

COPY . /tmp/emotion
RUN pip install --no-cache-dir --constraint /tmp/emotion/constraints.txt /tmp/emotion && rm -r /tmp/emotion && useradd --create-home emotion

USER emotion
WORKDIR /home/emotion
EXPOSE 8000
# EMOTION_PORT changes the port, as the other variables of `emotion serve --help` change its limits.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["python", "-c", \
    "import os, urllib.request as web; web.build_opener(web.ProxyHandler({})).open(f'http://127.0.0.1:{os.environ.get(\"EMOTION_PORT\", 8000)}/health', timeout=4)"]
CMD ["emotion", "serve", "--host", "0.0.0.0"]
