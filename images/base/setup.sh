# Finishes the base image. Run as root in its tree, by `sh -eu`.

# Everything an agent runs is this user. No password: nobody logs in, and sudo asks for none.
useradd --uid 1000 --user-group --create-home --shell /bin/bash agent
install -d -o agent -g agent -m 0755 /home/agent/work

# Root of the sandbox is nobody on the machine, so becoming it is no privilege there.
cat >/etc/sudoers.d/agent <<'END'
agent ALL=(ALL:ALL) NOPASSWD: ALL
# The way out, and whom to trust on it.
Defaults env_keep += "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy"
Defaults env_keep += "SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO PIP_CERT NODE_EXTRA_CA_CERTS"
END
chmod 0440 /etc/sudoers.d/agent
visudo --check --quiet

printf 'LANG=C.UTF-8\n' >/etc/default/locale
printf 'LANG=C.UTF-8\n' >>/etc/environment
ln -sf /usr/share/zoneinfo/Etc/UTC /etc/localtime

# Written anew at every start; sudo looks the host's name up here.
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >/etc/hosts
printf 'sandbox\n' >/etc/hostname
rm -f /etc/resolv.conf
printf 'nameserver 127.0.0.1\n' >/etc/resolv.conf

# No service manager runs in a sandbox: packages must not try to start anything.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d

# A package cut off by the end of a session is installed again; syncing every file costs more.
printf 'force-unsafe-io\n' >/etc/dpkg/dpkg.cfg.d/sandbox
printf 'APT::Install-Recommends "false";\nAPT::Update::Post-Invoke {};\nDPkg::Post-Invoke {};\n' >/etc/apt/apt.conf.d/80sandbox

# `pip install` without a virtual environment is what people type; the sandbox is the environment.
rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
ln -sf python3 /usr/bin/python

# Where the runtime mounts its own: sockets, the host program.
install -d -m 0755 /run/wharf

# Bytes nobody reads in a sandbox. The directories of manual pages stay: OpenJDK's packages, for one, fail without them.
rm -rf /usr/share/doc/* /usr/share/man/*/* /usr/share/info/* /var/log/*.log /var/log/apt /var/cache/debconf/*-old
find /usr/share/locale -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
rm -f /etc/ssh/ssh_host_* /etc/machine-id /var/lib/dbus/machine-id
: >/etc/machine-id
