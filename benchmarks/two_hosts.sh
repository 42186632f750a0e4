#!/usr/bin/env bash
# Run a program in processes on two hosts that this machine only plays: network namespaces, joined
# by a virtual cable, so that all messages between them go over TCP. Linux, as root, with MPICH.
#
#   bash benchmarks/two_hosts.sh -n 2 python -m benchmarks.ranks
#
# The processes take turns on the two hosts.
set -euo pipefail

hosts=(10.77.0.1 10.77.0.2)
names=(npdl-host-1 npdl-host-2)
folder=$(mktemp -d)
finish() {
    for name in "${names[@]}"; do ip netns del "$name" 2> /dev/null || true; done
    rm -rf "$folder"
}
trap finish EXIT

for i in 0 1; do ip netns add "${names[i]}"; done
ip -n "${names[0]}" link add cable type veth peer name cable netns "${names[1]}"
for i in 0 1; do
    ip -n "${names[i]}" addr add "${hosts[i]}/24" dev cable
    ip -n "${names[i]}" link set cable up
    ip -n "${names[i]}" link set lo up
done
for name in "${names[@]}"; do
    until ip -n "$name" -br link show cable | grep -q " UP "; do sleep 0.1; done
done

# In place of ssh: launch HOST COMMAND ...
cat > "$folder/launch" << END
#!/usr/bin/env bash
while [[ \$1 == -* ]]; do shift; done
host=\$1
shift
name=${names[0]}
[ "\$host" = ${hosts[1]} ] && name=${names[1]}
exec ip netns exec "\$name" sh -c "\$*"
END
chmod +x "$folder/launch"

# Both are on one kernel: without this, messages would go through its memory.
export UCX_TLS=tcp,self UCX_NET_DEVICES=cable FI_PROVIDER=tcp FI_TCP_IFACE=cable
export NPDL_NUM_THREADS=${NPDL_NUM_THREADS:-1} # each host would take all cores
ip netns exec "${names[0]}" mpiexec -launcher ssh -launcher-exec "$folder/launch" -disable-x \
    -localhost "${hosts[0]}" -hosts "${hosts[0]}:1,${hosts[1]}:1" "$@"
