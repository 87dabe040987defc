// Package configs is the daemon's configuration: its type, its defaults, its checks, and the
// files that are shipped with it.
package configs
