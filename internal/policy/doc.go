// Package policy holds the tests that police the code base: who may import what, and a few
// habits. Nothing imports it.
package policy
