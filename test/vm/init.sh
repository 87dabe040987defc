#!/bin/sh
# The first process of a virtual machine. HOST and NUMBER come from the kernel's command line.
PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /var/lib /var/log /root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
ln -s /run /var/run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
export HOME=/root
hostname "$HOST"

echo "init: mounted $(cat /proc/uptime)"
for module in virtio_pci virtio_console virtio_net virtio_rng; do
	modprobe $module
done
# What a host with meshd loads at boot.
while read -r module; do
	case $module in
	"" | "#"*) ;;
	*) modprobe "$module" || echo "init: this kernel has no $module" ;;
	esac
done </usr/lib/modules-load.d/meshd.conf
sysctl -q -p /usr/lib/sysctl.d/meshd.conf

echo "init: modules $(cat /proc/uptime)"
ip link set lo up
ip link set eth0 up
ip addr add "10.77.0.$NUMBER/24" dev eth0
ip addr add "fd00:77::$NUMBER/64" dev eth0 nodad
ip route add default via 10.77.0.254
ip -6 route add default via fd00:77::fe
echo "127.0.1.1 $HOST" >>/etc/hosts

echo "init: guest $(cat /proc/uptime)"
/usr/local/bin/guest /dev/vport*p1
poweroff -f
