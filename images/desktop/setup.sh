# Finishes the desktop image, after the base image's script. Run as root in its tree, by `sh -eu`.

# Chromium asks nothing on its first start, keeps to the session's way out, and calls nobody by itself: what it fetches
# is what a page asked for. No --no-sandbox: its own sandbox works in a session.
cat >/etc/chromium.d/wharf <<'CHROMIUM'
CHROMIUM_FLAGS="$CHROMIUM_FLAGS --no-first-run --no-default-browser-check --password-store=basic"
CHROMIUM_FLAGS="$CHROMIUM_FLAGS --disable-background-networking --disable-component-update --disable-sync"
CHROMIUM_FLAGS="$CHROMIUM_FLAGS --disable-search-engine-choice-screen --hide-crash-restore-bubble --start-maximized"
wharf_proxy="${HTTPS_PROXY:-${https_proxy:-${HTTP_PROXY:-${http_proxy:-}}}}"
if [ -n "$wharf_proxy" ]; then
    wharf_direct="$(printf %s "${NO_PROXY:-${no_proxy:-}}" | tr , ';')"
    CHROMIUM_FLAGS="$CHROMIUM_FLAGS --proxy-server=$wharf_proxy --proxy-bypass-list=$wharf_direct"
    unset wharf_direct
fi
unset wharf_proxy
CHROMIUM

# The session's own authority is written there when a session starts.
install -d -o agent -g agent -m 0700 /home/agent/.pki /home/agent/.pki/nssdb
certutil -N -d sql:/home/agent/.pki/nssdb --empty-password
chown agent:agent /home/agent/.pki/nssdb/*

# One desktop: with several, a turn of the wheel over nothing would lead to another, empty one.
sed -i -e 's|<number>4</number>|<number>1</number>|' -e 's|<popupTime>875</popupTime>|<popupTime>0</popupTime>|' /etc/xdg/openbox/rc.xml
grep -q '<number>1</number>' /etc/xdg/openbox/rc.xml
cat >/etc/xdg/openbox/menu.xml <<'MENU'
<?xml version="1.0" encoding="UTF-8"?>
<openbox_menu xmlns="http://openbox.org/">
  <menu id="root-menu" label="Desktop">
    <item label="Chromium"><action name="Execute"><command>chromium</command></action></item>
    <item label="Terminal"><action name="Execute"><command>xterm</command></action></item>
  </menu>
</openbox_menu>
MENU

# A terminal with outline letters, whatever the alphabet.
printf '*faceName: DejaVu Sans Mono\n*faceSize: 11\n*saveLines: 4096\n' >>/etc/X11/app-defaults/XTerm

# Font lists are made once here instead of by the first program of each session.
fc-cache -f >/dev/null

# Where the X server's socket goes. In the tree too, so that only root can have made it.
install -d -m 1777 /tmp/.X11-unix

rm -rf /usr/share/doc/* /usr/share/man/*/* /usr/share/info/* /var/log/*.log /var/log/apt /var/cache/debconf/*-old
find /usr/share/locale -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
rm -f /etc/machine-id /var/lib/dbus/machine-id
: >/etc/machine-id
