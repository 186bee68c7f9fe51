# The image is one binary, the system's root certificates and a volume. The tag below and the channel in
# rust-toolchain.toml are the same version.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
# Use the image's own toolchain: the file would also fetch clippy and rustfmt.
ENV RUSTUP_TOOLCHAIN=1.95.0
COPY . .
# Registry and target stay in cache mounts, so a rebuild compiles only what changed. They are not part of
# the layer: copy the binary out in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p dca-auth --bin dca-auth \
 && cp target/release/dca-auth /usr/local/bin/dca-auth

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin dca \
 && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /usr/local/bin/dca-auth /usr/local/bin/dca-auth
# Inside a container loopback reaches nobody; outside, the default stays 127.0.0.1:3000.
ENV DCA_DATA_DIR=/data \
    DCA_HTTP_ADDR=0.0.0.0:3000
# By number, so that a platform can tell it is not root without reading /etc/passwd.
USER 10001:10001
WORKDIR /data
# The SQLite file and the generated secrets: lose it and every license key is unreadable.
VOLUME /data
EXPOSE 3000
# SIGTERM drains and exits, within 30 s; give it that long. Probes: GET /live and GET /ready.
STOPSIGNAL SIGTERM
ENTRYPOINT ["dca-auth"]
CMD ["serve"]
