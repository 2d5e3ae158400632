# All of pgsluice, with the newest pg_dump: docker build -t pgsluice .
# It runs with a read-only root and any user: docker run --read-only --tmpfs /tmp …
FROM golang:1.26-trixie AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN git config --global --add safe.directory /src && DESTDIR=/out scripts/install

FROM debian:trixie-slim
# pg_dump must not be older than the source; PostgreSQL's own repository has the newest. The scripts
# need bash, and ps to look after their programs.
ARG POSTGRES=18
RUN apt-get update \
	&& apt-get install -y --no-install-recommends ca-certificates postgresql-common procps \
	&& /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
	&& apt-get install -y --no-install-recommends postgresql-client-$POSTGRES \
	&& rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /
USER 65532:65532
WORKDIR /tmp
ENV HOME=/tmp
CMD ["bash"]
