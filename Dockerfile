# syntax=docker/dockerfile:1
# One image with both programs: `tasker`, and `registration`, which has the demo and its services.

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive the build and are not part of the image, so the programs are copied to /out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin tasker --example registration \
    && mkdir /out \
    && cp target/release/tasker target/release/examples/registration /out/ \
    && strip /out/*

FROM debian:bookworm-slim
# The certificates serve connections to databases over TLS.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin tasker
COPY --from=build /out/ /usr/local/bin/
USER 10001
EXPOSE 7233
# No other host can reach the loopback of a container, so the server listens on all addresses. It
# has no authentication: publish the port to a trusted network only.
ENV TASKER_LISTEN=0.0.0.0:7233
# The server drains on SIGTERM from `docker stop`, whose time limit must exceed
# TASKER_DRAIN_SECONDS.
ENTRYPOINT ["tasker"]
CMD ["server"]
