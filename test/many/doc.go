// Package many measures a lab with as many real agents as the machine carries: real processes, kernels'
// namespaces, tunnels. It is what package scale's simulation is compared with.
package many
