package main

import "github.com/meshd/meshd/api"

// publishForm is how --publish is written.
const publishForm = "[HOST_PORT:]PORT[/tcp|udp]"

// parsePublish reads what was given with --publish.
func parsePublish(specs []string) ([]api.Publish, error) {
	var list []api.Publish
	for _, spec := range specs {
		ports, err := api.ParsePublish(spec)
		if err != nil {
			return nil, misused("--publish %v", err)
		}
		for _, p := range ports {
			for _, other := range list {
				if other.Published == p.Published && other.Protocol == p.Protocol {
					return nil, misused("--publish %q: %d/%s is published twice", spec, p.Published, p.Protocol)
				}
			}
			list = append(list, p)
		}
	}
	if len(list) > api.MaxPorts {
		return nil, misused("--publish: these are %d ports, more than %d: publish fewer", len(list), api.MaxPorts)
	}
	return list, nil
}

// parseUnpublish reads what was given with --unpublish.
func parseUnpublish(specs []string) ([]api.Port, error) {
	var list []api.Port
	for _, spec := range specs {
		ports, err := api.ParsePorts(spec)
		if err != nil {
			return nil, misused("--unpublish %v", err)
		}
		list = append(list, ports...)
	}
	return list, nil
}
