variable "project_id" {
  description = "Project of the cluster."
  type        = string
}

variable "name" {
  description = "Name of the cluster, such as strongroom-prod."
  type        = string
}

variable "region" {
  description = "Region of the control plane, which has a copy in each of its zones."
  type        = string
}

variable "zones" {
  description = "Zones of the machines; empty lets GKE choose three."
  type        = list(string)
}

variable "labels" {
  description = "Labels of the cluster."
  type        = map(string)
}

variable "network_id" {
  description = "Network of the cluster."
  type        = string
}

variable "subnetwork_id" {
  description = "Subnet of the machines."
  type        = string
}

variable "pods_range_name" {
  description = "Secondary range of the pods."
  type        = string
}

variable "services_range_name" {
  description = "Secondary range of the services."
  type        = string
}

variable "control_plane_cidr" {
  description = "Addresses of the control plane, a /28 that overlaps with nothing."
  type        = string

  validation {
    condition     = can(cidrhost(var.control_plane_cidr, 0)) && endswith(var.control_plane_cidr, "/28")
    error_message = "control_plane_cidr must be a /28 such as 172.16.0.0/28."
  }
}

variable "private_endpoint" {
  description = "Whether the control plane has no public address at all. Then Terraform and people reach it from inside the network only."
  type        = bool
}

variable "authorized_networks" {
  description = "Networks that may reach the control plane, by a name for each."
  type        = map(string)

  validation {
    condition     = alltrue([for cidr in values(var.authorized_networks) : can(cidrhost(cidr, 0))])
    error_message = "Each authorized network must be a network such as 203.0.113.0/29."
  }

  validation {
    condition     = alltrue([for cidr in values(var.authorized_networks) : try(tonumber(split("/", cidr)[1]) >= 16, false)])
    error_message = "An authorized network is a /16 or smaller: the control plane is not for everybody."
  }
}

variable "release_channel" {
  description = "How new the versions of Kubernetes are: RAPID, REGULAR, STABLE or EXTENDED."
  type        = string

  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE", "EXTENDED"], var.release_channel)
    error_message = "release_channel must be RAPID, REGULAR, STABLE or EXTENDED."
  }
}

variable "secrets_key_id" {
  description = "KMS key that closes the cluster's secrets in its database."
  type        = string
}

variable "machines_email" {
  description = "Service account that the first machines work as, for the minute that they live."
  type        = string
}

variable "disk_key_id" {
  description = "KMS key of their boot disks."
  type        = string
}

variable "binary_authorization" {
  description = "Whether only images that the project's policy lets in are started. Write the policy first."
  type        = bool
}

variable "maintenance_start" {
  description = "When the weekly window for upgrades begins (RFC 3339)."
  type        = string
}

variable "maintenance_end" {
  description = "When the first of these windows ends (RFC 3339)."
  type        = string
}

variable "maintenance_recurrence" {
  description = "How the window comes again (RFC 5545)."
  type        = string
  default     = "FREQ=WEEKLY;BYDAY=SA,SU"
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to delete the cluster."
  type        = bool
}
