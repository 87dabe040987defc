package catalog

import "strings"

// CheckName says why s cannot name a network, a service or an endpoint (what), or nil: a name is a
// DNS label of 1 to 63 lower-case letters, digits, hyphens and underscores.
func CheckName(what, s string) error { return checkName(what, s) }

// MaxLabels is how many labels a network can have, and MaxLabelBytes how long all of them may be together.
const (
	MaxLabels     = 32
	MaxLabelBytes = 2048
)

// CheckLabels says why these cannot be a network's labels, or nil.
func CheckLabels(labels map[string]string) error {
	size := 0
	for key, value := range labels {
		size += len(key) + len(value)
		if err := firstOf(checkText("label", key), checkText("label "+key, value)); err != nil {
			return refuse(ErrInvalid, "%v", err)
		}
	}
	if len(labels) > MaxLabels || size > MaxLabelBytes {
		return refuse(ErrInvalid, "%d labels of %d bytes: a network has at most %d of %d bytes", len(labels), size, MaxLabels, MaxLabelBytes)
	}
	return nil
}

// CheckAlias says why s cannot be a further name of an endpoint, or nil: it is names as CheckName
// has them, joined by dots, with at most 180 characters.
func CheckAlias(s string) error {
	const most = 180 // room for the suffixes of names in DNS
	if len(s) > most {
		return refuse(ErrInvalid, "alias %.20s… has %d characters: use at most %d", s, len(s), most)
	}
	for label := range strings.SplitSeq(s, ".") {
		if err := checkName("alias", label); err != nil {
			return err
		}
	}
	return nil
}
