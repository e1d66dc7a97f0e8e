package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/polder-net/polder/internal/api"
)

func pods(e env, args []string) error {
	f := newFlags("pods", "[-o json]", "Lists the pods of this node: what its kernel says, as the agent reads it.")
	output := f.String("o", "", "print `json`, for programs, or text")
	socket := f.String("socket", api.Socket, "ask the agent that listens at this `path`")
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	if err := checkOutput("pods", *output); err != nil {
		return err
	}
	_, report, err := askAgent(e, *socket)
	if err != nil {
		return err
	}
	if *output == "json" {
		return writeIndented(e.stdout, append([]api.LocalPod{}, report.Pods...))
	}
	writePods(e.stdout, report.Pods)
	return nil
}

func writePods(w io.Writer, pods []api.LocalPod) {
	if len(pods) == 0 {
		fmt.Fprintln(w, "no pods on this node")
		return
	}
	var t textTable
	titles := []string{"POD", "ADDRESSES", "LINK", "CONTAINER"}
	judged := slices.ContainsFunc(pods, func(p api.LocalPod) bool { return p.Policies != nil })
	if judged {
		titles = append(titles, "POLICIES")
	}
	t.add(titles...)
	for _, p := range pods {
		cells := []string{podName(p), stacked(p.Addresses), p.Link, p.ContainerID[:min(12, len(p.ContainerID))]}
		if judged {
			cells = append(cells, podPolicyText(p.Policies))
		}
		t.add(cells...)
	}
	t.write(w)
}

// podName is what Kubernetes calls the pod, or, where it did not make it, the CNI network.
func podName(p api.LocalPod) string {
	if p.Name == "" {
		return "- (" + p.Network + ")"
	}
	return p.Namespace + "/" + p.Name
}
