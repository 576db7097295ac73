package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// sink is the bundle's file as it grows.
type sink struct {
	u        *Updater
	j        *job
	file     *os.File
	size     int64 // bytes that are there
	stored   int64 // of them durable
	next     int64 // of a topic: the offset behind what is there
	reported time.Time
	asked    time.Time // MayFetch
	began    time.Time // of this fetch, for the rate
	taken    int64     // bytes of this fetch
}

// fetch brings the bundle to its full size. It tries again and again, from
// where it was, until GiveUp has passed since the job began; what another try
// cannot mend is given up at once.
func (u *Updater) fetch(ctx context.Context, j *job) error {
	s, err := u.open(j)
	if err != nil {
		return err
	}
	defer s.file.Close() // it is synced before
	u.report(u.phase(j, Fetching, ""))
	var hopeless *hopelessError
	for pause := firstPause; s.size < j.Bundle.Size; {
		was := s.size
		err := s.ready()
		if err == nil && j.Bundle.Topic != "" {
			err = s.fromTopic(ctx)
		} else if err == nil {
			err = s.fromHTTP(ctx)
		}
		err = errors.Join(err, s.keep())
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errReplaced), errors.As(err, &hopeless):
			return err
		case s.size >= j.Bundle.Size:
			return nil
		case time.Since(j.Began) > u.cfg.GiveUp:
			return fmt.Errorf("update: given up after %s: %w", u.cfg.GiveUp, err)
		}
		if s.size > was {
			pause = firstPause
		}
		u.report(u.phase(j, Waiting, fmt.Sprint(err)))
		if err := s.sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, longestPause)
	}
	return s.keep()
}

// hopelessError is one that another try does not mend.
type hopelessError struct{ error }

func hopeless(format string, args ...any) error { return &hopelessError{fmt.Errorf(format, args...)} }

// open continues the file. What is in it behind what the job knows of a topic is
// cut off, since the offset would not belong to it.
func (u *Updater) open(j *job) (*sink, error) {
	f, err := os.OpenFile(u.dir.bundle(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("update: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("update: %w", err), f.Close())
	}
	size := info.Size()
	if j.Bundle.Topic != "" {
		size = min(size, j.Fetched)
		if size < j.Fetched { // the file is not what the job believes
			j.Next, j.Fetched, size = j.Bundle.Offset, 0, 0
		}
	}
	if size > j.Bundle.Size {
		size = 0
	}
	if err = f.Truncate(size); err == nil {
		_, err = f.Seek(size, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("update: %w", err), f.Close())
	}
	return &sink{u: u, j: j, file: f, size: size, stored: size, next: j.Next, reported: time.Now()}, nil
}

// ready begins a try: it waits for nothing, and says whether the link may be used.
func (s *sink) ready() error {
	s.began, s.taken, s.asked = time.Now(), 0, time.Now()
	return s.u.cfg.MayFetch()
}

// write appends, within the rate. It may sleep.
func (s *sink) write(ctx context.Context, b []byte) error {
	if s.size+int64(len(b)) > s.j.Bundle.Size {
		return hopeless("the bundle is longer than the %d bytes that the command says", s.j.Bundle.Size)
	}
	if _, err := s.file.Write(b); err != nil {
		return hopeless("update: store the bundle: %w", err) // a full disk, say
	}
	s.size, s.taken = s.size+int64(len(b)), s.taken+int64(len(b))
	if s.size-s.stored >= storeEvery {
		if err := s.keep(); err != nil {
			return err
		}
	}
	if s.u.job() != s.j {
		return errReplaced
	}
	if now := time.Now(); now.Sub(s.reported) >= ReportEvery {
		s.reported = now
		s.u.report(s.u.phase(s.j, Fetching, ""))
	}
	if now := time.Now(); now.Sub(s.asked) >= askEvery {
		s.asked = now
		if err := s.u.cfg.MayFetch(); err != nil {
			return err
		}
	}
	if s.u.cfg.MaxRate > 0 {
		due := time.Duration(float64(s.taken) / float64(s.u.cfg.MaxRate) * float64(time.Second))
		return s.sleep(ctx, due-time.Since(s.began))
	}
	return nil
}

// keep makes durable what is there, with the offset that belongs to it.
func (s *sink) keep() error {
	if s.size == s.stored {
		return nil
	}
	if err := s.file.Sync(); err != nil {
		return hopeless("update: store the bundle: %w", err)
	}
	s.stored = s.size
	if s.j.Bundle.Topic == "" {
		return nil
	}
	s.u.mu.Lock()
	defer s.u.mu.Unlock()
	if s.u.current != s.j {
		return errReplaced
	}
	s.j.Fetched, s.j.Next = s.size, s.next
	return s.u.dir.store(s.j)
}

func (s *sink) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.u.wake:
			if s.u.job() != s.j {
				return errReplaced
			}
		case <-t.C:
			return nil
		}
	}
}

// fromHTTP asks for what is missing (RFC 9110 §14.2, Range). A server that sends
// all is read from the beginning.
func (s *sink) fromHTTP(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.j.Bundle.URL, nil)
	if err != nil {
		return hopeless("update: %w", err)
	}
	if s.size > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", s.size))
	}
	resp, err := s.u.cfg.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("fetch the bundle: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", s.size)):
	case resp.StatusCode == http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != s.j.Bundle.Size {
			return hopeless("%s has %d bytes, the command says %d", s.j.Bundle.URL, resp.ContentLength, s.j.Bundle.Size)
		}
		if err := s.again(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("fetch the bundle: %s answers %s", s.j.Bundle.URL, resp.Status)
	}
	silence := time.AfterFunc(quiet, cancel)
	defer silence.Stop()
	chunk := make([]byte, 64<<10)
	for s.size < s.j.Bundle.Size {
		silence.Reset(quiet)
		n, err := resp.Body.Read(chunk)
		silence.Stop() // the rate may let us sleep
		if n > 0 {
			if err := s.write(ctx, chunk[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF && s.size < s.j.Bundle.Size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("fetch the bundle: %w", err)
		}
	}
	return nil
}

// again empties the file.
func (s *sink) again() error {
	if err := s.file.Truncate(0); err != nil {
		return hopeless("update: %w", err)
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return hopeless("update: %w", err)
	}
	s.size, s.stored = 0, 0
	return nil
}
