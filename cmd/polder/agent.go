package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/polder-net/polder/internal/api"
)

// askTimeout is how long the agent may take to report: it answers from memory.
const askTimeout = 5 * time.Second

// ask returns what this node's agent answers, and says in words why it does not.
func ask(e env, socket string, r api.Request) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	response, err := e.ask(ctx, socket, r)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("only root may ask the agent: %w", err)
	case errors.Is(err, api.ErrNoAgent):
		return nil, fmt.Errorf("no agent runs on this node: nobody listens at %s", socket)
	case err != nil:
		return nil, err
	}
	return response.Report, nil
}

// askAgent returns the report of this node's agent, as it came and as it reads.
func askAgent(e env, socket string) (json.RawMessage, api.NodeReport, error) {
	var report api.NodeReport
	body, err := ask(e, socket, api.Request{Verb: api.Report})
	if err != nil {
		return nil, report, err
	}
	if err := json.Unmarshal(body, &report); err != nil {
		return nil, report, fmt.Errorf("read agent's report: %w", err)
	}
	return body, report, nil
}
