host "$dev"
image feature-x v1
time play 'changed=.*failed=0' --check --diff || true
time play 'changed=.*failed=0'
time play 'changed=0 .*failed=0'
dev_token=$(token dev)
inside systemctl --failed --no-pager
time get -H "Authorization: Bearer $dev_token" "https://$dev/hooks/deploy-branch?branch=feature-x"
time get -H "Authorization: Bearer $dev_token" "https://$dev/hooks/deploy-branch?branch=feature-x"
get https://feature-x.$dev/
inside bash -c 'systemctl cat buildbtw@feature-x; ls -la /run/buildbtw /var/lib/buildbtw/*; journalctl -b --no-pager -n 60; podman ps -a; systemctl status buildbtw@feature-x'
