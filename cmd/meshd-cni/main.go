// Command meshd-cni is run by container engines that speak CNI. It puts containers on
// meshd's networks by asking the daemon of this host.
package main

import (
	"os"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/meshd/meshd/plugin/cni"
)

// version is set by the build.
var version = "dev"

func main() {
	skel.PluginMainFuncs(cni.New(os.Stdout).Functions(), cni.Versions, "CNI plugin meshd-cni "+version)
}
