# The image contains one binary and the system's root certificates. Keep the tag below equal to the channel in
# rust-toolchain.toml.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
# Use the image's toolchain: rust-toolchain.toml would also install clippy and rustfmt.
ENV RUSTUP_TOOLCHAIN=1.95.0
COPY . .
# `--build-arg GIT_COMMIT=…` adds the commit to `dca-auth --version`.
ARG GIT_COMMIT
# Registry and target are cache mounts, so that a rebuild compiles only what changed. They are not part of the
# layer, so the binary is copied out in the same step.
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
# Loopback is not reachable from outside the container. The program's own default is 127.0.0.1:3000.
# On 0.0.0.0 it does not start without DCA_PUBLIC_URL. Set DCA_TRUSTED_PROXIES too if a proxy is in front of it:
#   docker run -v dca-data:/data -p 127.0.0.1:3000:3000 \
#     -e DCA_PUBLIC_URL=https://auth.example.com -e DCA_TRUSTED_PROXIES=172.17.0.1 dca-auth
ENV DCA_DATA_DIR=/data \
    DCA_HTTP_ADDR=0.0.0.0:3000
# Numeric, so that platforms can verify that it is not root.
USER 10001:10001
WORKDIR /data
# The SQLite file and the generated secrets. Without them, license keys cannot be recovered.
VOLUME /data
EXPOSE 3000
# SIGTERM drains requests and exits within 30 s. Probes: GET /live and GET /ready.
STOPSIGNAL SIGTERM
ENTRYPOINT ["dca-auth"]
CMD ["serve"]
