// Package sim runs whole meshes in virtual time, through partitions, losses, crashes and
// rollbacks, and checks what must hold whatever happens.
//
// The catalog, the claim protocol and the compile step are the product's own; the
// transport, the disk, the kernel and the clocks are simulated. All follows from
// a seed: a schedule that fails does so again, event by event, and is shrunk to few.
package sim
