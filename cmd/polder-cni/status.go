package main

import (
	"context"
	"errors"

	"github.com/polder-net/polder/internal/api"
)

// statusMain is STATUS of the main plugin: success if ADD would succeed now. Behind another plugin it says the same,
// as STATUS is not told of its place in a chain.
func statusMain(ctx context.Context, c *call) ([]byte, error) {
	err := c.askStatus(ctx, api.Request{DelegatedIPAM: c.conf.ipam != ""})
	var delegateErr error
	if c.conf.ipam != "" {
		_, delegateErr = c.delegate(ctx, "STATUS")
	}
	return nil, gather("STATUS", err, asStatus(delegateErr))
}

// statusIPAM is STATUS of the IPAM plugin.
func statusIPAM(ctx context.Context, c *call) ([]byte, error) {
	return nil, c.askStatus(ctx, api.Request{IPAM: true})
}

func (c *call) askStatus(ctx context.Context, req api.Request) error {
	req.Verb, req.Attachment = api.Status, c.Attachment
	_, err := c.ask(ctx, req, nil)
	if errors.Is(err, api.ErrNoAgent) { // pods that run go on: the datapath needs no agent
		return &api.Error{Code: api.CodeNotAvailable, Msg: "Polder's agent does not run on this node", Details: err.Error()}
	}
	return asStatus(err)
}

// asStatus gives an error one of the two codes of STATUS.
func asStatus(err error) error {
	if err == nil {
		return nil
	}
	e := asError(err)
	if e.Code == api.CodeNotAvailable || e.Code == api.CodeLimited {
		return e
	}
	return &api.Error{Code: api.CodeNotAvailable, Msg: e.Msg, Details: e.Details}
}
