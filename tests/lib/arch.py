"""What Arch's hosts have today: webhook, two scripts that it runs as root, and a template."""

TEMPLATE = """\
[Container]
ContainerName=buildbtw-%i
Environment=BUILDBTW_COOKIE_ENCRYPTION_KEY=SIXTY-FOUR
Environment=BUILDBTW_DATABASE_FILE=/var/lib/buildbtw/buildbtw.sqlite
Environment=BUILDBTW_LISTEN=unix:/run/buildbtw/%i.sock:777
Environment=BUILDBTW_SERVER_URL=https://%i.HOST
Exec=run
Image=localhost:5000/archlinux/buildbtw/backend:%i
Pull=newer
Volume=/run/buildbtw:/run/buildbtw
Volume=/var/lib/buildbtw/instances/%i:/var/lib/buildbtw
[Install]
WantedBy=multi-user.target default.target
"""

SCRIPTS = {
    "deploy-branch": """\
#!/bin/sh -e
mkdir -p "/var/lib/buildbtw/instances/$1"
ln -sf buildbtw@.container "/etc/containers/systemd/buildbtw@$1.container"
systemctl daemon-reload
systemctl restart "buildbtw@$1.service"
""",
    "undeploy-branch": """\
#!/bin/sh -e
rm -f "/etc/containers/systemd/buildbtw@$1.container"
systemctl stop "buildbtw@$1.service"
systemctl daemon-reload
rm -rf "/var/lib/buildbtw/instances/$1"
""",
}
# With its command's output in the answer, webhook waits for the command.
HOOKS = [
    {
        "id": script,
        "execute-command": f"/usr/local/bin/{script}",
        "include-command-output-in-response": True,
        "pass-arguments-to-command": [{"source": "url", "name": "image-tag"}],
    }
    for script in SCRIPTS
]
