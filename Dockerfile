# syntax=docker/dockerfile:1
# One image with both programs: `tasker`, and `registration`, the demo and its parts.

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive the build; what is kept is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin tasker --example registration \
    && mkdir /out \
    && cp target/release/tasker target/release/examples/registration /out/ \
    && strip /out/*

FROM debian:bookworm-slim
# The certificates are for databases that are reached over TLS.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin tasker
COPY --from=build /out/ /usr/local/bin/
USER 10001
EXPOSE 7233
# Inside a container, loopback is nobody's. There is no authentication: publish the port to a trusted network only.
ENV TASKER_LISTEN=0.0.0.0:7233
# `docker stop` sends SIGTERM: the server drains. Give it more than TASKER_DRAIN_SECONDS.
ENTRYPOINT ["tasker"]
CMD ["server"]
