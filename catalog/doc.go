// Package catalog holds what every host of a mesh knows of it: who belongs to it, what
// runs where, which networks there are.
//
// It is pure. It knows no network, no file, no Serf and no clock: times and
// randomness come in as arguments, so a simulator can run it as it is.
//
// The state is a set of signed [Record]s. [Catalog.Merge] takes records from anywhere,
// in any order, any number of times; it is commutative, associative and
// idempotent, and returns the news, which is exactly what to pass on. What is
// seen ([Catalog.View]) is a pure function of the set, so all hosts that hold the same
// records see the same mesh.
package catalog
